//! The program that measures iceoryx2 is a crate of its own (`bench/peers`), carried here as text: it is built when somebody asks, into a folder of the
//! user's cache, and used when it is there. So nothing of Vshmem depends on it.

use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::Command;

const MANIFEST: &str = include_str!("../../peers/Cargo.toml");
const LOCK: &str = include_str!("../../peers/Cargo.lock");
const SOURCE: &str = include_str!("../../peers/src/main.rs");

/// Where it is built: `$XDG_CACHE_HOME/vshmem/peers`, or below `~/.cache`.
fn folder() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(cache.join("vshmem/peers"))
}

/// The program, if this version of it is built, or what to do about it.
pub(crate) fn built() -> Result<PathBuf, String> {
    let advice = "it is not built; `vshmem bench peers --build` does that, with cargo, from crates.io, in some minutes";
    let folder = folder().ok_or("there is no folder for a cache: set HOME")?;
    let same = |file: &str, text: &str| std::fs::read_to_string(folder.join(file)).is_ok_and(|is| is == text);
    let program = folder.join("target/release/vshmem-bench-peers");
    if same("Cargo.toml", MANIFEST)
        && same("Cargo.lock", LOCK)
        && same("src/main.rs", SOURCE)
        && program.exists()
    {
        Ok(program)
    } else {
        Err(advice.into())
    }
}

/// Builds it.
///
/// # Errors
/// Without cargo, or what it needs of the network.
pub fn build() -> Result<()> {
    if built().is_ok() {
        return Ok(());
    }
    let folder = folder().context("there is no folder for a cache: set HOME")?;
    std::fs::create_dir_all(folder.join("src")).with_context(|| folder.display().to_string())?;
    let program = folder.join("target/release/vshmem-bench-peers");
    // A program of other sources must not pass for one of these.
    let _ = std::fs::remove_file(&program);
    std::fs::write(folder.join("Cargo.toml"), MANIFEST)?;
    std::fs::write(folder.join("Cargo.lock"), LOCK)?;
    std::fs::write(folder.join("src/main.rs"), SOURCE)?;
    let status = Command::new("cargo")
        .args(["build", "--release", "--locked", "--manifest-path"])
        .arg(folder.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(folder.join("target"))
        .status()
        .context("cargo is not installed: iceoryx2 is a Rust crate; install Rust from rustup.rs")?;
    ensure!(
        status.success() && program.exists(),
        "iceoryx2 could not be built; cargo says above why (it must reach the registry of crates, or have them already)"
    );
    Ok(())
}
