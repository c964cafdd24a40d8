//! Compiles the C programs, in a folder of its own; a compiler or a library that is missing costs the programs that need it and no others.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The sources, by name.
const SOURCES: &[(&str, &str)] = &[
    ("blas.c", include_str!("../../programs/blas.c")),
    ("collectives.c", include_str!("../../programs/collectives.c")),
    ("channel.h", include_str!("../../programs/channel.h")),
    ("channel-local.c", include_str!("../../programs/channel-local.c")),
    (
        "channel-socket.c",
        include_str!("../../programs/channel-socket.c"),
    ),
    ("channel-sysv.c", include_str!("../../programs/channel-sysv.c")),
    (
        "channel-zeromq.c",
        include_str!("../../programs/channel-zeromq.c"),
    ),
    ("crew.h", include_str!("../../programs/crew.h")),
    ("crew-mpi.c", include_str!("../../programs/crew-mpi.c")),
    ("crew-openmp.c", include_str!("../../programs/crew-openmp.c")),
    ("crew-serial.c", include_str!("../../programs/crew-serial.c")),
    ("crew-sysv.c", include_str!("../../programs/crew-sysv.c")),
    ("crew-team.c", include_str!("../../programs/crew-team.c")),
    ("dwarfs.c", include_str!("../../programs/dwarfs.c")),
    ("dwarfs.h", include_str!("../../programs/dwarfs.h")),
    ("exchange.c", include_str!("../../programs/exchange.c")),
    ("kernels.h", include_str!("../../programs/kernels.h")),
    ("kernels-blas.c", include_str!("../../programs/kernels-blas.c")),
    (
        "kernels-physics.c",
        include_str!("../../programs/kernels-physics.c"),
    ),
    ("laplace.c", include_str!("../../programs/laplace.c")),
    ("nbody.c", include_str!("../../programs/nbody.c")),
    ("pi.c", include_str!("../../programs/pi.c")),
    ("vshmem.h", include_str!("../../../client/capi/include/vshmem.h")),
];

/// Options of every compilation.
pub const OPTIONS: &[&str] = &["-O3", "-march=native", "-fopenmp-simd", "-std=gnu11"];

/// The same for programs that run on an emulated processor, which is not this one.
const PLAIN: &[&str] = &["-O3", "-fopenmp-simd", "-std=gnu11"];

/// The C library's file.
const LIBRARY: &str = "libvshmem.so";

/// Objects that every model of the dwarfs is linked from: file, source, further options.
const OBJECTS: &[(&str, &str, &[&str])] = &[
    ("blas-f32.o", "kernels-blas.c", &["-DREAL=float", "-DNAME=s"]),
    ("blas-f64.o", "kernels-blas.c", &["-DREAL=double", "-DNAME=d"]),
    ("physics.o", "kernels-physics.c", &[]),
    ("blas.o", "blas.c", &[]),
    ("laplace.o", "laplace.c", &[]),
    ("pi.o", "pi.c", &[]),
    ("nbody.o", "nbody.c", &[]),
    ("collectives.o", "collectives.c", &[]),
    ("dwarfs.o", "dwarfs.c", &[]),
];

/// A program: its name, what it is linked by, its own source, further options, and what to install where it cannot be.
struct Recipe {
    name: &'static str,
    compiler: &'static str,
    source: &'static str,
    options: &'static [&'static str],
    packages: &'static str,
}

const DWARFS: &[Recipe] = &[
    Recipe {
        name: "serial",
        compiler: "cc",
        source: "crew-serial.c",
        options: &[],
        packages: "gcc libc6-dev",
    },
    Recipe {
        name: "sysv",
        compiler: "cc",
        source: "crew-sysv.c",
        options: &[],
        packages: "gcc libc6-dev",
    },
    Recipe {
        name: "openmp",
        compiler: "cc",
        source: "crew-openmp.c",
        options: &["-fopenmp"],
        packages: "gcc libc6-dev",
    },
    Recipe {
        name: "mpich",
        compiler: "mpicc.mpich",
        source: "crew-mpi.c",
        options: &[],
        packages: "mpich libmpich-dev",
    },
    Recipe {
        name: "openmpi",
        compiler: "mpicc.openmpi",
        source: "crew-mpi.c",
        options: &[],
        packages: "openmpi-bin libopenmpi-dev",
    },
];

/// The folder with what was compiled.
#[derive(Debug)]
pub struct Workshop {
    folder: tempfile::TempDir,
    options: &'static [&'static str],
    /// Why a program is not there.
    missing: BTreeMap<&'static str, String>,
}

impl Workshop {
    /// Compiles everything that can be. `vshmem` is the command, beside which the C library is.
    ///
    /// # Errors
    /// When there is no C compiler, or no room.
    pub fn open(vshmem: &Path) -> Result<Workshop> {
        let mut shop = Workshop::empty()?;
        shop.objects()?;
        for recipe in DWARFS {
            shop.link(recipe);
        }
        shop.team(vshmem);
        shop.exchange()?;
        Ok(shop)
    }

    /// Compiles for an emulated processor what runs in guests: System V.
    ///
    /// # Errors
    /// As [`Workshop::open`].
    pub fn plain() -> Result<Workshop> {
        let mut shop = Workshop::empty()?;
        shop.options = PLAIN;
        shop.objects()?;
        DWARFS
            .iter()
            .filter(|recipe| recipe.name == "sysv")
            .for_each(|recipe| shop.link(recipe));
        shop.exchange()?;
        Ok(shop)
    }

    /// A folder with all sources.
    fn empty() -> Result<Workshop> {
        let folder = tempfile::Builder::new().prefix("vshmem-bench").tempdir()?;
        for (name, text) in SOURCES {
            std::fs::write(folder.path().join(name), text)?;
        }
        Ok(Workshop {
            folder,
            options: OPTIONS,
            missing: BTreeMap::new(),
        })
    }

    fn objects(&self) -> Result<()> {
        for (object, source, options) in OBJECTS {
            self.compile("cc", &["-c", source, "-o", object], options)
                .context("no C compiler that works: install `gcc libc6-dev`")?;
        }
        Ok(())
    }

    /// The model that is the C library's.
    fn team(&mut self, vshmem: &Path) {
        let beside = vshmem.parent().unwrap_or(Path::new("/"));
        let found = [
            "",
            "../lib",
            "../lib/x86_64-linux-gnu",
            "../lib/aarch64-linux-gnu",
        ]
        .into_iter()
        .find_map(|place| beside.join(place).join(LIBRARY).canonicalize().ok());
        let Some(library) = found else {
            let why = format!(
                "{LIBRARY} is neither beside the vshmem command nor in ../lib; build vshmem-capi or install it there"
            );
            self.missing.insert("team", why);
            return;
        };
        let path = library.to_string_lossy();
        let rpath = format!(
            "-Wl,-rpath,{}",
            library.parent().unwrap_or(Path::new("/")).display()
        );
        let mut arguments = vec!["-I.", "crew-team.c"];
        arguments.extend(OBJECTS.iter().map(|object| object.0));
        arguments.extend([&*path, &rpath, "-lm", "-o", "team"]);
        if let Err(error) = self.compile("cc", &arguments, &[]) {
            self.missing.insert("team", format!("{error:#}"));
        }
    }

    /// The path of a program, or why there is none.
    pub fn program(&self, name: &str) -> Result<PathBuf, String> {
        match self.missing.get(name) {
            Some(why) => Err(why.clone()),
            None => Ok(self.folder.path().join(name)),
        }
    }

    /// Where everything lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn link(&mut self, recipe: &Recipe) {
        let mut arguments = vec![recipe.source];
        arguments.extend(OBJECTS.iter().map(|object| object.0));
        arguments.extend(["-lm", "-o", recipe.name]);
        if let Err(error) = self.compile(recipe.compiler, &arguments, recipe.options) {
            let why = format!("{error:#}; install `{}`", recipe.packages);
            self.missing.insert(recipe.name, why);
        }
    }

    /// The program that passes control, with ZeroMQ if that is here.
    fn exchange(&mut self) -> Result<()> {
        let sources = [
            "exchange.c",
            "channel-sysv.c",
            "channel-socket.c",
            "channel-local.c",
            "channel-zeromq.c",
            "-lm",
            "-o",
            "exchange",
        ];
        let with = self.compile("cc", &[&sources[..], &["-lzmq"]].concat(), &["-DWITH_ZEROMQ"]);
        if with.is_err() {
            let why = "zmq.h or libzmq is missing; install `libzmq3-dev`";
            self.missing.insert("zeromq", why.into());
            self.compile("cc", &sources, &[])?;
        }
        Ok(())
    }

    fn compile(&self, compiler: &str, arguments: &[&str], options: &[&str]) -> Result<()> {
        let output = Command::new(compiler)
            .current_dir(self.folder.path())
            .args(self.options)
            .args(options)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("{compiler} is not installed"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let first = said
            .lines()
            .find(|line| line.contains("error"))
            .unwrap_or("it failed");
        ensure!(output.status.success(), "{compiler}: {first}");
        Ok(())
    }
}
