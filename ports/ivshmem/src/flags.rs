//! What to add to a virtual machine of somebody's own, so that it is a domain: QEMU's options, commands for its monitor, libvirt's elements.
//!
//! Two parts: a device for each pool of the domain's groups, and what leads to the back-end: a virtio-serial port or vsock. Not for machines that Vshmem starts itself: `boot`
//! has their command line.

use crate::boot::aligned;
use crate::channel::CONTROL;
use crate::server::check_pool;
use crate::vsock::{PORT, report};
use std::path::Path;
use vshmem_port::flags::{Device, Flags, Way, Wish};
use vshmem_wire::{Doors, PoolDoor, VsockDoor};

/// Makes the text for one kind of reader.
type Writer = fn(&Doors, Wish) -> Result<Flags, String>;

/// The kinds of readers, by name.
pub const READERS: [(&str, Writer); 3] = [("qemu", qemu), ("qemu-monitor", monitor), ("libvirt", libvirt)];

/// Whether devices can show all pools.
fn check_pools(doors: &Doors) -> Result<(), String> {
    let check = |door: &PoolDoor| {
        let pool = &door.pool;
        check_pool(pool.bytes).map_err(|why| format!("group {}: {why}", pool.group))
    };
    doors.pools.iter().try_for_each(check)
}

/// What tells the devices of several pools apart on a command line: nothing for the first one.
fn suffix(number: usize, door: &PoolDoor) -> String {
    match number {
        0 => String::new(),
        _ => format!("-{}", door.pool.group),
    }
}

/// Options for QEMU's command line, one a line.
///
/// # Errors
/// If a path or the pool cannot be given to QEMU: the text says what to do.
pub fn qemu(doors: &Doors, wish: Wish) -> Result<Flags, String> {
    check_pools(doors)?;
    let Doors { control, vectors, .. } = doors;
    let device = wish.device;
    let paths = doors.pools.iter().flat_map(|door| [&door.device, &door.file]);
    let place = doors.vsock.as_ref().map(|vsock| &vsock.place);
    for path in paths.chain([control]).chain(place) {
        if path.contains([',', ' ', '\'', '"', '\\']) {
            return Err(format!(
                "{path} has characters that a command line of QEMU cannot carry: choose another --runtime-dir"
            ));
        }
    }
    let mut add = stream(doors, wish.way)?;
    let mut notes = vec![
        "These are options for the command line; the other options are yours. In a shell: qemu-system-x86_64 … $(vshmem vm flags qemu --domain NAME)".to_owned(),
        "Under software emulation (no KVM) give the machine two possible processors at least, -smp 1,maxcpus=2: with one, its atomic instructions are not atomic to others.".to_owned(),
    ];
    for (number, door) in doors.pools.iter().enumerate() {
        let of = suffix(number, door);
        match device {
            Device::Served => {
                add.push(format!(
                    "-chardev socket,id=vshmem-device{of},path={}",
                    door.device
                ));
                add.push(format!(
                    "-device ivshmem-doorbell,id=vshmem{of},chardev=vshmem-device{of},vectors={vectors},master=off"
                ));
            }
            Device::File => {
                let bytes = door.pool.bytes;
                add.push(format!(
                    "-object memory-backend-file,id=vshmem-pool{of},share=on,mem-path={},size={bytes}{}",
                    door.file,
                    aligned(bytes)
                ));
                add.push(format!(
                    "-device ivshmem-plain,id=vshmem{of},memdev=vshmem-pool{of},master=off"
                ));
            }
        }
    }
    match device {
        Device::Served => {
            notes.push("The back-end must run when the machine starts. It may be killed and restarted under it; stopped for good, it takes its pool with it, and the machine must be started again.".to_owned());
        }
        Device::File => {
            let files: Vec<&str> = doors.pools.iter().map(|door| door.file.as_str()).collect();
            notes.push(format!(
                "{} leads to the back-end's memory: only root and the back-end's own user can open it. For a QEMU of another user take the other device (--device doorbell).",
                files.join(", ")
            ));
        }
    }
    notes.extend(several(doors));
    notes.extend(of_way(doors, wish.way));
    notes.push(sockets(doors, wish.way));
    Ok(Flags {
        text: add.join("\n"),
        notes,
        guest: guest(wish.way),
    })
}

/// Where the machine's stream comes by vsock.
fn vsock(doors: &Doors) -> Result<&VsockDoor, String> {
    doors
        .vsock
        .as_ref()
        .ok_or_else(|| "the back-end takes no stream of this machine over vsock".to_owned())
}

/// The socket at which a program serves the machine's vsock device, beside the back-end's.
fn user_device(vsock: &VsockDoor) -> String {
    format!("{}.device", vsock.place)
}

/// The options for the stream.
fn stream(doors: &Doors, way: Way) -> Result<Vec<String>, String> {
    Ok(match way {
        Way::Serial => vec![
            "-device virtio-serial-pci,id=vshmem-ports".to_owned(),
            format!(
                "-chardev socket,id=vshmem-control,path={},reconnect=1",
                doors.control
            ),
            format!("-device virtserialport,bus=vshmem-ports.0,chardev=vshmem-control,name={CONTROL}"),
        ],
        Way::Vsock => vec![format!(
            "-device vhost-vsock-pci,id=vshmem-vsock,guest-cid={}",
            vsock(doors)?.cid
        )],
        Way::VsockUser => vec![
            format!(
                "-chardev socket,id=vshmem-vsock,path={}",
                user_device(vsock(doors)?)
            ),
            "-device vhost-user-vsock-pci,chardev=vshmem-vsock".to_owned(),
        ],
    })
}

/// What to know of the stream.
fn of_way(doors: &Doors, way: Way) -> Vec<String> {
    let Some(VsockDoor { cid, place }) = &doors.vsock else {
        return Vec::new();
    };
    let kept = format!(
        "CID {cid} must be no other machine's of this host. To have it whenever the back-end runs, add to the domain's [[domain]] in its configuration: cid = {cid}."
    );
    match way {
        Way::Serial => Vec::new(),
        Way::Vsock => {
            let mut notes = vec![format!(
                "The stream comes by vsock to port {PORT} of the host, where the back-end listens as root or with CAP_NET_BIND_SERVICE. {kept}"
            )];
            if !Path::new(report::KERNEL).exists() {
                notes.push(format!(
                    "{} is not here: load the kernel's part (modprobe vhost_vsock), or take --stream vsock-user, which needs the program {} instead.",
                    report::KERNEL,
                    report::PROGRAM
                ));
            }
            notes
        }
        Way::VsockUser => vec![
            format!(
                "Before the machine starts, as QEMU's user: {} --vm guest-cid={cid},socket={place}.device,uds-path={place} (cargo install {} brings it). {kept}",
                report::PROGRAM,
                report::PROGRAM
            ),
            "That program maps the guest's memory, which must be shared: -object memory-backend-memfd,id=ram,size=SIZE,share=on -machine memory-backend=ram, SIZE being that of -m.".to_owned(),
        ],
    }
}

/// Commands for the monitor of a QEMU that runs already, one a line: what [`qemu`] adds, plugged in.
///
/// # Errors
/// Those of [`qemu`].
pub fn monitor(doors: &Doors, wish: Wish) -> Result<Flags, String> {
    let mut flags = qemu(doors, wish)?;
    let commands = flags.text.lines().map(|line| {
        let (option, value) = line.split_once(' ').unwrap_or((line, ""));
        let command = match option {
            "-chardev" => "chardev-add",
            "-object" => "object_add",
            _ => "device_add",
        };
        format!("{command} {value}")
    });
    flags.text = commands.collect::<Vec<_>>().join("\n");
    flags.notes[0] = "These are commands for the monitor of a machine that runs (HMP; by QMP as human-monitor-command). In a machine of type q35 a PCI device can be plugged \
                      into a port alone: start it with -device pcie-root-port,id=slot1,chassis=1,pref64-reserve=N and so on, one for each, N being twice the pool's size, and add ,bus=slot1 \
                      and so on to the PCI devices (virtio-serial-pci and ivshmem)."
        .to_owned();
    flags.notes.push(
        "In the guest `vshmem join --wait` finds what is plugged in. To pull a device: device_del with its id; who has mapped its memory there is killed. Pull \
         no ivshmem-doorbell device out of a QEMU without KVM: QEMU 7.2 may crash."
            .to_owned(),
    );
    Ok(flags)
}

/// Elements for `<devices>` of a libvirt domain.
///
/// # Errors
/// If libvirt cannot say it: the text says what to do.
pub fn libvirt(doors: &Doors, wish: Wish) -> Result<Flags, String> {
    check_pools(doors)?;
    if wish.way == Way::VsockUser {
        return Err(
            "libvirt has vsock by the host's kernel alone: take --stream vsock, or serial".to_owned(),
        );
    }
    if wish.device == Device::File {
        return Err(
            "libvirt's ivshmem-plain takes its memory from /dev/shm alone, where the pool is not: it must be sealed. Take --device doorbell".to_owned(),
        );
    }
    let vectors = doors.vectors;
    let memory = doors.pools.iter().enumerate().map(|(number, door)| {
        format!(
            "<shmem name='vshmem{}' role='peer'>
  <model type='ivshmem-doorbell'/>
  <server path='{}'/>
  <msi vectors='{vectors}'/>
</shmem>
",
            escape(&suffix(number, door)),
            escape(&door.device)
        )
    });
    let memory: String = memory.collect();
    let stream = match wish.way {
        Way::Serial => format!(
            "<channel type='unix'>
  <source mode='connect' path='{}'>
    <reconnect enabled='yes' timeout='1'/>
  </source>
  <target type='virtio' name='{CONTROL}'/>
</channel>",
            escape(&doors.control)
        ),
        _ => format!(
            "<vsock model='virtio'>
  <cid auto='no' address='{}'/>
</vsock>",
            vsock(doors)?.cid
        ),
    };
    let text = format!("{memory}{stream}");
    let mut notes = vec![
        "These elements go into <devices> (virsh edit DOMAIN). Without KVM (<domain type='qemu'>) give the machine two possible processors at least: <vcpu current='1'>2</vcpu>.".to_owned(),
        sockets(doors, wish.way),
        "libvirt starts QEMU as a user of its own: [machines] owner = \"libvirt-qemu\" on Debian and Ubuntu, \"qemu\" on Fedora and its kin.".to_owned(),
        format!(
            "AppArmor (Debian, Ubuntu): libvirt allows the machine these two sockets by itself. If the kernel's log says DENIED, add `\"{}/**\" rw,` to /etc/apparmor.d/local/abstractions/libvirt-qemu.",
            escape(&folder(doors))
        ),
        "SELinux (Fedora and its kin): the back-end's sockets must carry a label that machines may connect to; try `semanage fcontext -a -t virt_var_run_t` on the folder and restorecon, and ausearch -m avc where it is denied. RHEL's QEMU has no ivshmem device at all.".to_owned(),
        "A snapshot with memory is refused by QEMU: it would bring an old pool back.".to_owned(),
    ];
    notes.extend(several(doors));
    notes.extend(of_way(doors, wish.way));
    Ok(Flags {
        text,
        notes,
        guest: guest(wish.way),
    })
}

fn folder(doors: &Doors) -> String {
    let path = std::path::Path::new(&doors.control);
    let folder = path.parent().and_then(std::path::Path::parent);
    folder.unwrap_or(path).display().to_string()
}

/// What to know where there are several devices.
fn several(doors: &Doors) -> Option<String> {
    let groups: Vec<String> = doors
        .pools
        .iter()
        .map(|door| format!("{} ({} MiB)", door.pool.group, door.pool.bytes >> 20))
        .collect();
    (groups.len() > 1).then(|| {
        format!(
            "The domain is in several groups, with a device for each one's pool: {}. The front-end in the guest tells them apart by what lies in them: their order and addresses do not matter.",
            groups.join(", ")
        )
    })
}

fn sockets(doors: &Doors, way: Way) -> String {
    let stream = match way {
        Way::Serial => Some(&doors.control),
        Way::Vsock => None,
        Way::VsockUser => doors.vsock.as_ref().map(|vsock| &vsock.place),
    };
    let paths = stream
        .into_iter()
        .chain(doors.pools.iter().map(|door| &door.device));
    let paths: Vec<&str> = paths.map(String::as_str).collect();
    format!(
        "{} are of user {} and group {}, mode {:04o}: QEMU's user must be able to connect, which [machines] in the configuration says (owner, group, mode). Who may connect reaches the whole pool of each of the domain's groups.",
        paths.join(" and "),
        doors.uid,
        doors.gid,
        doors.mode
    )
}

fn guest(way: Way) -> Vec<String> {
    let driver = match way {
        Way::Serial => "modprobe virtio_console   # where it is not built in",
        Way::Vsock | Way::VsockUser => "modprobe vmw_vsock_virtio_transport   # where it is not built in",
    };
    vec![
        driver.to_owned(),
        "vshmem join &             # as root: it opens the device's memory".to_owned(),
        "vshmem doctor             # says what is missing".to_owned(),
    ]
}

fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '\'' => escaped.push_str("&apos;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use vshmem_wire::ShownPool;

    const SERIAL: Wish = Wish {
        device: Device::Served,
        way: Way::Serial,
    };
    const FILE: Wish = Wish {
        device: Device::File,
        way: Way::Serial,
    };

    fn by(way: Way) -> Wish {
        Wish { way, ..SERIAL }
    }

    fn door(group: &str, device: &str, file: &str, bytes: u64) -> PoolDoor {
        PoolDoor {
            pool: ShownPool {
                group: group.into(),
                bytes,
            },
            device: format!("/run/vshmem/machines/db/{device}"),
            file: format!("/run/vshmem/{file}"),
        }
    }

    fn doors() -> Doors {
        Doors {
            control: "/run/vshmem/machines/db/control.sock".into(),
            pools: vec![door("default", "device.sock", "pool", 1 << 30)],
            vsock: None,
            vectors: 2,
            configured: true,
            mode: 0o600,
            uid: 0,
            gid: 0,
        }
    }

    #[test]
    fn each_reader_is_given_the_pool_and_the_port() {
        for (reader, write) in READERS {
            let flags = write(&doors(), SERIAL).unwrap();
            for word in [
                "machines/db/control.sock",
                "machines/db/device.sock",
                "vshmem.0",
                "ivshmem-doorbell",
            ] {
                assert!(flags.text.contains(word), "{reader}: {word}");
            }
            assert!(
                flags.notes.iter().any(|note| note.contains("mode 0600")),
                "{reader}"
            );
        }
        let plain = qemu(&doors(), FILE).unwrap().text;
        assert!(
            plain.contains("mem-path=/run/vshmem/pool,size=1073741824,align=2M\n")
                && plain.contains("master=off")
        );
        let mut small = doors();
        small.pools[0].pool.bytes = 1 << 20;
        assert!(qemu(&small, FILE).unwrap().text.contains("size=1048576\n"));
    }

    #[test]
    fn a_stream_over_vsock_is_asked_for_in_each_readers_words() {
        let mut doors = doors();
        assert!(qemu(&doors, by(Way::Vsock)).unwrap_err().contains("no stream"));
        doors.vsock = Some(VsockDoor {
            cid: 1000,
            place: "/run/vshmem/machines/db/vsock/host".into(),
        });
        let text = |flags: &Result<Flags, String>| flags.as_ref().unwrap().text.clone();
        for (reader, write) in READERS {
            let flags = write(&doors, by(Way::Vsock));
            let text = text(&flags);
            assert!(
                text.contains("1000") && text.contains("vsock"),
                "{reader}: {text}"
            );
            assert!(!text.contains(CONTROL), "{reader}: {text}");
            let said = flags.unwrap();
            assert!(said.notes.join(" ").contains("cid = 1000"), "{reader}");
            assert!(said.guest[0].contains("vmw_vsock_virtio_transport"), "{reader}");
            assert!(
                text.contains("ivshmem-doorbell"),
                "{reader}: the memory is as ever"
            );
            let serial = write(&doors, SERIAL).unwrap();
            assert!(
                serial.text.contains(CONTROL) && !serial.text.contains("1000"),
                "{reader}"
            );
        }
        assert!(text(&libvirt(&doors, by(Way::Vsock))).contains("<cid auto='no' address='1000'/>"));
        assert!(
            libvirt(&doors, by(Way::VsockUser))
                .unwrap_err()
                .contains("--stream vsock")
        );
        let user = qemu(&doors, by(Way::VsockUser)).unwrap();
        assert!(
            user.text
                .contains("path=/run/vshmem/machines/db/vsock/host.device")
        );
        let said = user.notes.join(" ");
        assert!(said.contains("uds-path=/run/vshmem/machines/db/vsock/host ") && said.contains("share=on"));
    }

    #[test]
    fn each_pool_has_a_device_of_its_own() {
        let mut two = doors();
        two.pools
            .push(door("jobs", "device-jobs.sock", "pool-jobs", 1 << 28));
        for (reader, write) in READERS {
            let flags = write(&two, SERIAL).unwrap();
            for word in ["machines/db/device.sock", "machines/db/device-jobs.sock"] {
                assert!(flags.text.contains(word), "{reader}: {word}");
            }
            assert_eq!(flags.text.matches("ivshmem-doorbell").count(), 2);
            let said = flags.notes.join(" ");
            assert!(said.contains("default (1024 MiB), jobs (256 MiB)"), "{said}");
        }
        let plain = qemu(&two, FILE).unwrap().text;
        assert!(plain.contains("id=vshmem-pool-jobs,share=on,mem-path=/run/vshmem/pool-jobs,size=268435456"));
        assert!(plain.contains("memdev=vshmem-pool-jobs,"));
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        assert!(libvirt(&doors(), FILE).unwrap_err().contains("doorbell"));
        let mut odd = doors();
        odd.pools[0].pool.bytes = 3 << 20;
        let why = qemu(&odd, SERIAL).unwrap_err();
        assert!(
            why.contains("power of two") && why.contains("group default"),
            "{why}"
        );
        let mut odd = doors();
        odd.control = "/run/a,b/control.sock".into();
        assert!(qemu(&odd, SERIAL).unwrap_err().contains("--runtime-dir"));
        assert_eq!(escape("a'b<&"), "a&apos;b&lt;&amp;");
    }
}
