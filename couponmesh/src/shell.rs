//! What shells and `man` know of the commands, made from the command line itself.

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::{cli::Cli, output, run::BoxError};

/// Prints the script that completes commands and options in `shell`.
pub(crate) fn completions(shell: Shell) {
    output::print(&script(shell));
}

fn script(shell: Shell) -> String {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Prints the manual page of a command, like `["dlq", "list"]`; of all together when there is none.
pub(crate) fn man(command: &[String]) -> Result<(), BoxError> {
    output::print(&page(command)?);
    Ok(())
}

fn page(path: &[String]) -> Result<String, BoxError> {
    let mut all = Cli::command();
    // Commands know their full names afterwards.
    all.build();
    let version = all.get_version().unwrap_or_default().to_owned();
    let mut command = &all;
    for name in path {
        let found = command.find_subcommand(name);
        command = found.ok_or_else(|| format!("there is no command {}", path.join(" ")))?;
    }
    let mut page = Vec::new();
    let man = Man::new(command.clone()).source(format!("couponmesh {version}"));
    man.render(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    /// Every command by its path, without help's own.
    fn paths(command: &Command, path: &[String]) -> Vec<Vec<String>> {
        let of_ours = command.get_subcommands().filter(|c| c.get_name() != "help");
        let mut paths = vec![path.to_owned()];
        for inner in of_ours {
            let mut path = path.to_owned();
            path.push(inner.get_name().to_owned());
            paths.extend(self::paths(inner, &path));
        }
        paths
    }

    #[test]
    fn every_command_and_its_options_are_completed() {
        let all = Cli::command();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for path in paths(&all, &[]) {
                for name in path {
                    assert!(script.contains(&name), "{shell}: {name}");
                }
            }
            assert!(script.contains("data-dir"), "{shell}");
        }
    }

    #[test]
    fn bash_completes_with_it() {
        let typed = "COMP_WORDS=(couponmesh dlq re) COMP_CWORD=2; _couponmesh couponmesh re dlq";
        let commands = format!(
            "{}\n{typed}\necho \"${{COMPREPLY[@]}}\"",
            script(Shell::Bash)
        );
        let bash = std::process::Command::new("bash")
            .args(["-c", &commands])
            .output();
        let bash = bash.unwrap();
        assert_eq!(
            String::from_utf8_lossy(&bash.stdout),
            "redrive\n",
            "{bash:?}"
        );
    }

    #[test]
    fn every_command_has_a_page_that_its_parent_names() {
        let all = paths(&Cli::command(), &[]);
        assert!(all.len() > 10, "{all:?}");
        for path in all {
            let page = page(&path).unwrap();
            // roff's hyphens are escaped.
            let page = page.replace('\\', "");
            let title = ["couponmesh".to_owned()].into_iter().chain(path.clone());
            let title = title.collect::<Vec<_>>().join("-");
            assert!(page.contains(&format!(".TH {title} 1")), "{page}");
            if let Some((_, parent)) = path.split_last() {
                let parent = super::page(parent).unwrap().replace('\\', "");
                assert!(parent.contains(&format!("{title}(1)")), "{parent}");
            }
        }
        let page = super::page(&["run".to_owned()]).unwrap().replace('\\', "");
        assert!(page.contains("--data-dir"), "{page}");
    }

    #[test]
    fn a_page_of_no_command_is_refused() {
        let error = page(&["dlq".to_owned(), "lst".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "there is no command dlq lst");
    }
}
