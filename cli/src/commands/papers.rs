//! `vshmem completions` and `vshmem man`: made from the same definitions as the command line itself.

use crate::trouble::{Outcome, Trouble};
use clap::CommandFactory;
use std::io::Write;
use std::path::PathBuf;

/// Prints a shell's completions.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vshmem completions bash > /usr/share/bash-completion/completions/vshmem
  vshmem completions zsh > /usr/share/zsh/site-functions/_vshmem
  vshmem completions fish > ~/.config/fish/completions/vshmem.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

/// Prints the manual page, or writes all of them to a folder.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vshmem man | man -l -
  vshmem man run | man -l -
  vshmem man --dir /usr/local/share/man/man1")]
pub(crate) struct Man {
    /// Write the pages of all commands to this folder, as vshmem.1, vshmem-run.1, …
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
    /// The command whose page is printed, such as `run` or `vm run`
    command: Vec<String>,
}

/// Runs `completions`.
pub(crate) fn completions(options: &Completions) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(
        options.shell,
        &mut crate::arguments::Cli::command(),
        "vshmem",
        &mut text,
    );
    print(&text)
}

/// Runs `man`.
pub(crate) fn man(options: &Man) -> Outcome {
    let mut root = crate::arguments::Cli::command().disable_help_subcommand(true);
    root.build();
    if let Some(dir) = &options.dir {
        let trouble = |error| Trouble::new(format!("manual pages in {}", dir.display()), error);
        std::fs::create_dir_all(dir).map_err(trouble)?;
        return clap_mangen::generate_to(root, dir).map_err(trouble).map(|()| 0);
    }
    let mut command = &root;
    for name in &options.command {
        command = command.find_subcommand(name).ok_or_else(|| {
            Trouble::new("man", format!("there is no command {name}"))
                .remedy("see `vshmem --help`")
                .with_status(2)
        })?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .map_err(|error| Trouble::new("man", error))?;
    print(&page)
}

fn print(bytes: &[u8]) -> Outcome {
    let mut out = std::io::stdout();
    crate::trouble::printed(out.write_all(bytes).and_then(|()| out.flush()));
    Ok(0)
}
