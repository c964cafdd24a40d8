//! Kernel images, unpacked: hypervisor and toolstack would do it each time, in software emulation for many seconds.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Unpacks the kernel in a `bzImage` of x86 (the format is in the kernel's own documentation, x86/boot) into an ELF file.
pub(super) fn unpack_kernel(from: &Path, to: &Path) -> Result<()> {
    let image = fs::read(from).with_context(|| from.display().to_string())?;
    let payload = payload(&image).with_context(|| from.display().to_string())?;
    let program = match payload {
        [0xfd, b'7', b'z', b'X', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0x1f, 0x8b, ..] => "gzip",
        _ => bail!("{}: packed in a way that is not known here", from.display()),
    };
    // Behind the packed kernel stand four bytes of its size, which some of these programs stumble over.
    let packed = to.with_extension("packed");
    fs::write(&packed, &payload[..payload.len() - 4])?;
    let mut command = Command::new("timeout");
    command.args(["120", program, "-dc"]);
    let unpacked = command
        .stdin(fs::File::open(&packed)?)
        .stdout(Stdio::from(fs::File::create(to)?))
        .stderr(Stdio::null())
        .status();
    let _ = fs::remove_file(&packed);
    let status = unpacked.with_context(|| program.to_owned())?;
    let begins = fs::read(to)?.starts_with(b"\x7fELF");
    ensure!(
        begins,
        "{program} makes no kernel of {} ({status})",
        from.display()
    );
    Ok(())
}

/// The packed kernel in an image.
fn payload(image: &[u8]) -> Result<&[u8]> {
    let word = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).context("it is too short for a kernel")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    ensure!(
        image.get(0x202..0x206) == Some(b"HdrS"),
        "it is no kernel image (bzImage)"
    );
    let sectors = match image[0x1f1] {
        0 => 4,
        some => usize::from(some),
    };
    let start = (sectors + 1) * 512 + word(0x248)?;
    let packed = image.get(start..start + word(0x24c)?).context("it is cut off")?;
    ensure!(packed.len() > 8, "it holds no kernel");
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_lies_where_the_header_says() {
        let mut image = vec![0; 2048];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x1f1] = 1;
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&12_u32.to_le_bytes());
        image[1040..1052].copy_from_slice(b"packed + end");
        assert_eq!(payload(&image).unwrap(), b"packed + end");
        image[0x24c..0x250].copy_from_slice(&4096_u32.to_le_bytes());
        assert!(payload(&image).unwrap_err().to_string().contains("cut off"));
        assert!(payload(&image[..0x206]).is_err());
        assert!(payload(b"#!/bin/sh").is_err());
    }
}
