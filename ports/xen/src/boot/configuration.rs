//! What `xl` is told of a guest.
//!
//! | what | why |
//! |---|---|
//! | `type = "pv"` | runs on every Xen host, without virtualisation in the processor too; `VSHMEM_XEN_TYPE=pvh` where there is one |
//! | `tsc_mode = "native"` | else Xen may be asked at each reading of the processor's clock, which bounds spins; only guests that move between hosts need that |
//! | `p9` | the host's tree, and each folder that may be written to, served by the device model in dom0 |
//! | `on_… = "destroy"` | a guest that ended leaves nothing |

use crate::inside::{TAG, tag};
use std::path::Path;
use vshmem_port::boot::{BootError, MachineSpec};
use vshmem_port::kernel::Kernel;

/// `pv` or `pvh`.
pub const TYPE_VARIABLE: &str = "VSHMEM_XEN_TYPE";

/// Files of a machine.
pub(crate) struct Files<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) first_root: &'a Path,
    /// Where the host's tree can be seen read-only.
    pub(crate) tree: &'a Path,
}

/// The text of the configuration.
pub(crate) fn text(spec: &MachineSpec, files: &Files<'_>, kind: &str) -> Result<String, BootError> {
    if !["pv", "pvh"].contains(&kind) {
        return Err(BootError::Unsupported(format!(
            "{TYPE_VARIABLE} is {kind:?}; it can be pv or pvh"
        )));
    }
    let mut shares = vec![(TAG.to_owned(), files.tree)];
    shares.extend(spec.binds.iter().map(|folder| (tag(folder), folder.as_path())));
    let shares = shares
        .iter()
        .map(|(tag, path)| {
            Ok(quoted(&format!(
                "tag={tag},path={},security_model=none",
                plain(path)?
            )))
        })
        .collect::<Result<Vec<_>, BootError>>()?;
    let pins: Vec<String> = spec.cpus.iter().map(|cpu| quoted(&cpu.to_string())).collect();
    let cpus = if pins.is_empty() {
        String::new()
    } else {
        format!("cpus = [ {} ]\n", pins.join(", "))
    };
    let mebibytes = spec.memory >> 20;
    Ok(format!(
        "name = {name}\ntype = {kind}\nkernel = {kernel}\nramdisk = {first_root}\nextra = {line}\nmemory = {mebibytes}\nmaxmem = {mebibytes}\n\
         vcpus = {vcpus}\n{cpus}tsc_mode = \"native\"\np9 = [ {shares} ]\n\
         on_poweroff = \"destroy\"\non_reboot = \"destroy\"\non_crash = \"destroy\"\n",
        name = quoted(&spec.name),
        kind = quoted(kind),
        kernel = quoted(plain(&files.kernel.image)?),
        first_root = quoted(plain(files.first_root)?),
        line = quoted(&kernel_line(spec)?),
        vcpus = spec.cpus.len().max(1),
        shares = shares.join(", "),
    ))
}

/// Refuses names that mean something else to `xl` and its configuration.
pub(crate) fn check_name(name: &str) -> Result<(), BootError> {
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let why = if name.is_empty() || name.starts_with('-') || !name.bytes().all(harmless) {
        "can have letters, digits, '-', '_' and '.', and begins with no '-'"
    } else if name.bytes().all(|b| b.is_ascii_digit()) {
        "needs a letter: xl takes a name of digits for the number of a domain, and would end that one"
    } else {
        return Ok(());
    };
    Err(BootError::Unsupported(format!(
        "{name:?} cannot be the name of a guest of Xen: it {why}"
    )))
}

fn kernel_line(spec: &MachineSpec) -> Result<String, BootError> {
    let mut line = "console=hvc0 quiet panic=-1 rdinit=/init --".to_owned();
    for word in &spec.init_args {
        let harmless = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
        if word.is_empty() || !word.bytes().all(harmless) {
            return Err(BootError::Unsupported(format!(
                "{word:?} cannot stand on a kernel command line"
            )));
        }
        line.push(' ');
        line.push_str(word);
    }
    Ok(line)
}

/// A path that means the same in a list of `xl`'s.
fn plain(path: &Path) -> Result<&str, BootError> {
    path.to_str()
        .filter(|text| !text.chars().any(|c| c.is_control() || "\"'\\,".contains(c)))
        .ok_or_else(|| {
            BootError::Unsupported(format!(
                "{} holds a quote, a comma, a backslash or a control character, which xl's configuration cannot hold",
                path.display()
            ))
        })
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    fn spec(cpus: &[usize], binds: &[&str]) -> MachineSpec {
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        MachineSpec {
            name: "a".to_owned(),
            memory: 256 << 20,
            cpus: cpus.to_vec(),
            init: "/init".into(),
            init_args: vec!["guest-init".to_owned(), "xen".to_owned()],
            pools: Vec::new(),
            control: None,
            bells: Vec::new(),
            network: None,
            stdio: null(),
            binds: binds.iter().map(Into::into).collect(),
            special: vshmem_port::boot::Special::default(),
            console: null(),
        }
    }

    fn made(spec: &MachineSpec, kind: &str) -> Result<String, BootError> {
        let kernel = Kernel {
            image: "/boot/vmlinuz-1".into(),
            modules: Vec::new(),
        };
        let files = Files {
            kernel: &kernel,
            first_root: Path::new("/f/root"),
            tree: Path::new("/f/tree"),
        };
        text(spec, &files, kind)
    }

    #[test]
    fn virtual_cpus_are_pinned_each_to_its_own_and_folders_have_devices() {
        let all = made(&spec(&[2, 3], &["/w"]), "pv").unwrap();
        assert!(
            all.contains("vcpus = 2\ncpus = [ \"2\", \"3\" ]\ntsc_mode = \"native\"\n"),
            "{all}"
        );
        assert!(
            all.contains("tag=vshmem-host,path=/f/tree,security_model=none"),
            "{all}"
        );
        assert!(
            all.contains(&format!("tag={},path=/w,", tag(Path::new("/w")))),
            "{all}"
        );
        assert!(all.contains("rdinit=/init -- guest-init xen\""), "{all}");
        let all = made(&spec(&[], &[]), "pvh").unwrap();
        assert!(
            all.contains("vcpus = 1\ntsc_mode") && all.contains("type = \"pvh\""),
            "{all}"
        );
    }

    #[test]
    fn names_that_xl_takes_for_something_else_are_refused() {
        for good in ["a", "web-1.x", "0x1", "1a"] {
            check_name(good).unwrap();
        }
        for bad in ["", "0", "17", "-F", "a b", "a\"b", "a\nb", "a/b", "ä"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_a_configuration_cannot_hold_is_refused() {
        assert!(made(&spec(&[], &["/a,b"]), "pv").is_err());
        assert!(made(&spec(&[], &["/a\"b"]), "pv").is_err());
        assert!(
            made(&spec(&[], &[]), "hvm")
                .unwrap_err()
                .to_string()
                .contains("pv or pvh")
        );
        let mut odd = spec(&[], &[]);
        odd.init_args.push("a b".to_owned());
        assert!(made(&odd, "pv").is_err());
    }
}
