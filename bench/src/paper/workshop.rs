//! Compiles the C programs, in a folder of its own; a compiler or a library that is missing costs the programs that need it and no others.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The sources, by name.
const SOURCES: &[(&str, &str)] = &[
    ("blas.c", include_str!("../../programs/blas.c")),
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
];

/// Options of every compilation.
pub const OPTIONS: &[&str] = &["-O3", "-march=native", "-fopenmp-simd", "-std=gnu11"];

/// Objects that every model of the dwarfs is linked from: file, source, further options.
const OBJECTS: &[(&str, &str, &[&str])] = &[
    ("blas-f32.o", "kernels-blas.c", &["-DREAL=float", "-DNAME=s"]),
    ("blas-f64.o", "kernels-blas.c", &["-DREAL=double", "-DNAME=d"]),
    ("physics.o", "kernels-physics.c", &[]),
    ("blas.o", "blas.c", &[]),
    ("laplace.o", "laplace.c", &[]),
    ("pi.o", "pi.c", &[]),
    ("nbody.o", "nbody.c", &[]),
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
    /// Why a program is not there.
    missing: BTreeMap<&'static str, String>,
}

impl Workshop {
    /// Compiles everything that can be.
    ///
    /// # Errors
    /// When there is no C compiler, or no room.
    pub fn open() -> Result<Workshop> {
        let folder = tempfile::Builder::new().prefix("vshmem-bench").tempdir()?;
        for (name, text) in SOURCES {
            std::fs::write(folder.path().join(name), text)?;
        }
        let mut shop = Workshop {
            folder,
            missing: BTreeMap::new(),
        };
        for (object, source, options) in OBJECTS {
            shop.compile("cc", &["-c", source, "-o", object], options)
                .context("no C compiler that works: install `gcc libc6-dev`")?;
        }
        for recipe in DWARFS {
            shop.link(recipe);
        }
        shop.exchange()?;
        Ok(shop)
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
            .args(OPTIONS)
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
