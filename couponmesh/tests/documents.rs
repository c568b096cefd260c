//! The documents name what exists: files, tests, commands, and every key that can be set.

// Clippy sees tests only in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use couponmesh::config::{Config, DEFAULT};
use couponmesh_runtime::{grpc::GrpcConfig, telemetry::TelemetryConfig};
use serde_json::{Value, to_value};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn in_dir(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The directories of the workspace's packages.
fn packages() -> Vec<PathBuf> {
    let root = root();
    let mut packages = in_dir(&root.join("crates"));
    packages.extend(in_dir(&root.join("services")));
    packages.extend([root.join("couponmesh"), root.join("proto")]);
    packages
}

fn documents() -> Vec<PathBuf> {
    let root = root();
    let named = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(|name| root.join(name));
    let of_packages = packages().into_iter().map(|dir| dir.join("README.md"));
    let mut documents = named.to_vec();
    documents.extend(in_dir(&root.join("docs")));
    documents.extend(of_packages.filter(|path| path.exists()));
    documents.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    documents
}

/// The targets of Markdown links outside fenced blocks, without those that lead elsewhere.
fn links(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut links = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let targets = line.split("](").skip(1);
            links.extend(targets.filter_map(|rest| Some(rest.split_once(')')?.0)));
        }
    }
    links.retain(|target| !target.contains("://") && !target.starts_with('#'));
    links
}

#[test]
fn every_file_that_a_document_links_to_exists() {
    let mut dead = Vec::new();
    let mut found = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for target in links(&text) {
            found += 1;
            let path = target.split('#').next().unwrap();
            if !document.parent().unwrap().join(path).exists() {
                dead.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert_eq!(dead, [""; 0]);
    assert!(
        found > 20,
        "only {found} links found: are they read at all?"
    );
}

/// The cells of the table rows in `text` that stand under the heading `column`, each with its row.
fn column<'a>(text: &'a str, column: &str) -> Vec<(&'a str, &'a str)> {
    let mut index = None;
    let mut cells = Vec::new();
    for line in text.lines() {
        let Some(row) = line.strip_prefix("| ") else {
            index = None;
            continue;
        };
        let row: Vec<&str> = row.split(" |").map(str::trim).collect();
        match index {
            None => index = row.iter().position(|heading| *heading == column),
            Some(_) if row[0].starts_with("---") => {}
            Some(index) => cells.push((line, row[index])),
        }
    }
    cells
}

/// The names like `scenarios::leaving::a_name` between backticks.
fn test_names(cell: &str) -> impl Iterator<Item = &str> {
    let quoted = cell.split('`').skip(1).step_by(2);
    quoted.filter(|name| name.contains("::"))
}

/// The files in which the test `path` may stand. It begins with the name of a test binary or of a library.
fn files_of(path: &[&str]) -> Vec<PathBuf> {
    let (target, modules) = path.split_first().unwrap();
    let mut files = Vec::new();
    for package in packages() {
        let name = package.file_name().unwrap().to_str().unwrap().to_owned();
        let tests = package.join("tests");
        if modules.is_empty() {
            files.push(tests.join(format!("{target}.rs")));
            files.push(tests.join(target).join("main.rs"));
        } else {
            files.push(tests.join(target).join(modules.join("/") + ".rs"));
        }
        if *target == name || *target == format!("couponmesh_{name}") {
            // Unit tests stand in `mod tests` of the module, in its file or in a file of their own.
            let module = modules.strip_suffix(&["tests"]).unwrap_or(modules);
            for file in [module.join("/"), modules.join("/")] {
                files.push(package.join("src").join(file.clone() + ".rs"));
                files.push(package.join("src").join(file).join("mod.rs"));
            }
        }
    }
    files
}

/// How a test is left out of `cargo test` that make runs on a cluster.
const ON_A_CLUSTER: &str = "#[ignore = \"needs a cluster: make mesh-";

/// Whether `text` has a test `name` that runs.
fn has_test(text: &str, name: &str) -> bool {
    let declared = format!("fn {name}(");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.iter().enumerate().any(|(number, line)| {
        let above = lines[..number].iter().rev();
        let attributes: Vec<&&str> = above.take_while(|line| line.starts_with("#[")).collect();
        let is_test =
            |line: &&&str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        line.contains(&declared)
            && attributes.iter().any(is_test)
            && !attributes
                .iter()
                .any(|line| line.starts_with("#[ignore") && !line.starts_with(ON_A_CLUSTER))
    })
}

#[test]
fn every_test_that_the_checkpoints_name_exists_and_every_checkpoint_has_one_or_is_open() {
    let text = fs::read_to_string(root().join("docs/checkpoints.md")).unwrap();
    let rows = column(&text, "Test");
    let mut missing = Vec::new();
    for (row, cell) in &rows {
        if test_names(cell).next().is_none() && *cell != "open" {
            missing.push(format!("neither test nor `open`: {row}"));
        }
        for name in test_names(cell) {
            let path: Vec<&str> = name.split("::").collect();
            let (function, path) = path.split_last().unwrap();
            let mut texts = files_of(path)
                .into_iter()
                .filter_map(|file| fs::read_to_string(file).ok());
            if !texts.any(|text| has_test(&text, function)) {
                missing.push(format!("no such test: {name}"));
            }
        }
    }
    assert_eq!(missing, [""; 0]);
    assert!(rows.len() > 20, "only {} checkpoints found", rows.len());
}

#[test]
fn a_test_counts_only_with_its_attribute_and_only_when_it_runs() {
    let text = "#[test]\nfn a() {}\nfn b() {}\n#[tokio::test]\n#[ignore]\nasync fn c() {}\n";
    assert!(has_test(text, "a"));
    assert!(!has_test(text, "b") && !has_test(text, "c") && !has_test(text, "d"));
    let text = format!("#[test]\n{ON_A_CLUSTER}test\"]\nfn a() {{}}\n");
    assert!(has_test(&text, "a"));
}

#[test]
fn every_key_of_the_defaults_is_explained() {
    let mut unexplained = Vec::new();
    // How many keys stand under the last comment: two that belong together may share one.
    let mut keys = None;
    for line in DEFAULT.lines() {
        if line.is_empty() {
            keys = None;
        } else if line.starts_with('#') {
            keys = Some(0);
        } else if !line.starts_with('[') {
            keys = keys.map(|keys| keys + 1);
            if !matches!(keys, Some(1 | 2)) {
                unexplained.push(line);
            }
        }
    }
    assert_eq!(unexplained, [""; 0]);
}

#[test]
fn the_runtimes_own_defaults_are_those_of_the_file() {
    let of_file = Config::load(None).unwrap();
    let without = |config: Value, key: &str| {
        let mut config = config;
        let removed = config.as_object_mut().unwrap().remove(key);
        assert!(removed.is_some(), "{key} is no key any more");
        config
    };
    assert_eq!(
        to_value(&of_file.telemetry).unwrap(),
        to_value(TelemetryConfig::default()).unwrap()
    );
    // The runtime does not know the RPCs that last long.
    assert_eq!(
        without(to_value(&of_file.grpc).unwrap(), "max_in_flight_of"),
        without(to_value(GrpcConfig::default()).unwrap(), "max_in_flight_of")
    );
}

#[test]
fn every_key_that_the_operators_are_told_to_set_exists() {
    let text = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let config = to_value(Config::load(None).unwrap()).unwrap();
    let cells: Vec<&str> = column(&text, "Key").iter().map(|(_, cell)| *cell).collect();
    let keys = cells
        .iter()
        .flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let keys: Vec<&str> = keys.collect();
    let exists = |key: &&str| {
        let path = format!("/{}", key.replace('.', "/"));
        config
            .pointer(&path)
            .is_some_and(|value| !value.is_object())
    };
    let unknown: Vec<&&str> = keys.iter().filter(|key| !exists(key)).collect();
    assert_eq!(unknown, [&""; 0]);
    assert!(keys.len() > 5, "only {} keys found", keys.len());
}

#[test]
fn every_reason_of_an_error_is_explained_to_clients_and_no_other() {
    let code = fs::read_to_string(root().join("crates/runtime/src/status.rs")).unwrap();
    let named = code.lines().filter_map(|line| {
        let (_, name) = line.trim().strip_prefix("Self::")?.split_once(" => \"")?;
        name.strip_suffix("\",")
    });
    let mut named: Vec<&str> = named.collect();
    let text = fs::read_to_string(root().join("docs/clients.md")).unwrap();
    let cells = column(&text, "Reason").into_iter().map(|(_, cell)| cell);
    let mut explained: Vec<&str> = cells.map(|cell| cell.trim_matches('`')).collect();
    named.sort_unstable();
    explained.sort_unstable();
    assert_eq!(explained, named);
    assert!(named.len() > 10, "only {} reasons found", named.len());
}

/// The lines of fenced blocks, with those that end in a backslash joined.
fn fenced_lines(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut lines: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            let begun = line.trim_end_matches('\\');
            match lines.last_mut() {
                Some(last) if goes_on => last.push_str(begun),
                _ => lines.push(begun.to_owned()),
            }
            goes_on = begun != line;
        }
    }
    lines
}

/// What a line hands to the binary, when it calls it.
fn arguments(line: &str) -> Option<Vec<&str>> {
    let words = line.trim_start_matches("$ ").split_whitespace();
    // Variables may be set before the command.
    let mut words = words.skip_while(|word| word.starts_with("COUPONMESH_"));
    let program = words.next()?;
    if program != "couponmesh" && !program.ends_with("/release/couponmesh") {
        return None;
    }
    let ends = |word: &&str| matches!(*word, "|" | "&&" | "&" | ";" | ">" | "2>" | "#");
    let arguments: Vec<&str> = words.take_while(|word| !ends(word)).collect();
    // `couponmesh is listening on …` is what it prints.
    (arguments.first() != Some(&"is")).then_some(arguments)
}

#[test]
fn every_command_that_a_document_shows_is_understood() {
    let mut wrong = Vec::new();
    let mut found = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for line in fenced_lines(&text) {
            let Some(arguments) = arguments(&line) else {
                continue;
            };
            found += 1;
            // Everything before --help is read first, and refused when it is not understood.
            let asked = Command::new(env!("CARGO_BIN_EXE_couponmesh"))
                .args(&arguments)
                .arg("--help")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&asked.stderr);
            if !asked.status.success() {
                let first = said.lines().next().unwrap_or_default();
                wrong.push(format!("{}: {line}: {first}", document.display()));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert!(found > 10, "only {found} commands found");
}

#[test]
fn every_make_target_that_a_document_shows_exists() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let mut wrong = Vec::new();
    let mut found = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        let fenced = fenced_lines(&text);
        let indented = text.lines().filter_map(|line| line.strip_prefix("    "));
        let quoted = text.split('`').skip(1);
        let commands = fenced.iter().map(String::as_str);
        for command in commands.chain(indented).chain(quoted) {
            let Some(words) = command.strip_prefix("make ") else {
                continue;
            };
            found += 1;
            let target = words.split_whitespace().next().unwrap_or_default();
            if !makefile.contains(&format!("\n{target}:")) {
                wrong.push(format!("{}: {command}", document.display()));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert!(found > 10, "only {found} targets found");
}

#[test]
fn commands_are_found_with_variables_prompts_and_what_follows() {
    assert_eq!(
        arguments(
            "$ COUPONMESH__A=1 target/release/couponmesh run --without coupon # as if it were away"
        ),
        Some(vec!["run", "--without", "coupon"])
    );
    assert_eq!(arguments("couponmesh load | head"), Some(vec!["load"]));
    assert_eq!(
        arguments("couponmesh is listening on 127.0.0.1:50051"),
        None
    );
    assert_eq!(arguments("grpcurl couponmesh"), None);
    assert_eq!(fenced_lines("a\n```sh\nb \\\n  c\n```\nd"), ["b   c"]);
}
