//! What the documents must name, and that what they point at is there.

use crate::repository::{Repository, TextFile};
use std::collections::BTreeSet;

/// Where paths in backticks start, if they mean files of this repository.
const FOLDERS: [&str; 9] = [
    "gateway/",
    "loadtest/",
    "rules/",
    "rules-sdk/",
    "benches/",
    "scripts/",
    "docs/",
    ".ci/",
    ".cargo/",
];

/// Maximal runs in `text` that start with `prefix` and go on with characters `is_part` accepts.
fn words(text: &str, prefix: &str, is_part: impl Fn(char) -> bool) -> BTreeSet<String> {
    let starts = text.match_indices(prefix).map(|(offset, _)| offset);
    let found = starts.filter_map(|offset| {
        let rest = text.get(offset..)?;
        let end = rest.get(prefix.len()..)?.find(|c| !is_part(c));
        Some(end.map_or(rest, |end| rest.split_at(prefix.len() + end).0).to_owned())
    });
    found.collect()
}

/// What `code` has and `page` lacks, and the other way round.
fn differences(what: &str, code: &BTreeSet<String>, page: &BTreeSet<String>) -> Vec<String> {
    let mut findings = Vec::new();
    if code.is_empty() {
        findings
            .push(format!("no {what} was found in the code: the check looks in the wrong place"));
    }
    findings.extend(code.difference(page).map(|one| format!("{one}: {what} without a document")));
    findings.extend(page.difference(code).map(|one| format!("{one}: a document of no {what}")));
    findings
}

fn metrics(text: &str) -> BTreeSet<String> {
    let found = words(text, "bugler_", |c| c.is_ascii_lowercase() || c == '_');
    found
        .into_iter()
        .filter(|name| !["bugler_gateway", "bugler_loadtest"].contains(&name.as_str()))
        .collect()
}

fn codes(text: &str) -> BTreeSet<String> {
    words(text, "BGL-", |c| c.is_ascii_digit()).into_iter().filter(|code| code.len() == 8).collect()
}

/// `"/path"` literals in the `patterns` of endpoint tables.
fn routes(code: &str) -> BTreeSet<String> {
    let tables = code.split("patterns: &[").skip(1);
    let tables = tables.map(|rest| rest.split(']').next().unwrap_or_default());
    let literals = tables.flat_map(|table| words(table, "\"/", |c| c != '"'));
    literals.map(|route| route.replace('"', "")).collect()
}

/// Codes in the match of `fn code`.
fn exit_codes(cli: &str) -> BTreeSet<String> {
    let table = cli.split("fn code(self)").nth(1).unwrap_or_default();
    let table = table.split("\n    }\n").next().unwrap_or_default();
    let numbers = table.lines().filter_map(|line| line.trim().strip_suffix(',')?.split_once("=> "));
    numbers
        .map(|(_, number)| number)
        .filter(|n| n.parse::<u8>().is_ok())
        .map(str::to_owned)
        .collect()
}

/// Keys of the reference file that `page` does not name. Examples are commented out in it.
fn missing_keys(reference: &str, page: &str) -> Vec<String> {
    let mut section = String::new();
    let mut missing = Vec::new();
    let mut count = 0;
    for line in reference.lines() {
        let line = line.trim_start_matches('#');
        if let Some(name) = line.strip_prefix('[') {
            let name = name.trim_start_matches('[').split(']').next().unwrap_or_default();
            section = name.replace(".apns.main", ".apns.<app>").replace(".fcm.main", ".fcm.<app>");
            continue;
        }
        let Some((key, _)) = line.split_once(" = ") else { continue };
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            continue;
        }
        count += 1;
        let name = format!("{section}.{key}");
        if !page.contains(&format!("`{name}`")) && !page.contains(&format!("`{name}.")) {
            missing.push(format!("{name}: a setting without a document"));
        }
    }
    if count == 0 {
        missing.push(String::from("no setting was found in the reference file"));
    }
    missing
}

/// Targets of links in Markdown, and paths of this repository in backticks.
fn pointers(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
            continue;
        }
        if is_code {
            continue;
        }
        for rest in line.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            if !target.contains("://") && !target.starts_with("mailto:") {
                found.push(target.to_owned());
            }
        }
        for path in line.split('`').skip(1).step_by(2) {
            let is_plain = !path.contains([' ', '*', '{', '<', '…', ':']);
            if is_plain && FOLDERS.iter().any(|folder| path.starts_with(folder)) {
                found.push(format!("/{path}"));
            }
        }
    }
    found
}

/// What `## Heading, with *marks*` is called in a link.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// `folder` and `relative` as one path from the root; a leading `/` starts there.
fn join(folder: &str, relative: &str) -> String {
    let start = if relative.starts_with('/') { "" } else { folder };
    let mut parts: Vec<&str> = start.split('/').filter(|part| !part.is_empty()).collect();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn broken_pointers(page: &TextFile, files: &[TextFile]) -> Vec<String> {
    let folder = page.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut findings = Vec::new();
    for target in pointers(&page.text) {
        let (path, wanted) = target.split_once('#').unwrap_or((&target, ""));
        let path = if path.is_empty() { page.path.clone() } else { join(folder, path) };
        let file = files.iter().find(|file| file.path == path);
        let is_folder = files.iter().any(|file| file.path.starts_with(&format!("{path}/")));
        let has_anchor = wanted.is_empty()
            || file.is_some_and(|file| {
                file.text.lines().any(|line| line.starts_with('#') && anchor(line) == wanted)
            });
        if (file.is_none() && !is_folder) || !has_anchor {
            findings.push(format!("{}: {target} leads nowhere", page.path));
        }
    }
    findings
}

fn served(repository: &Repository) -> BTreeSet<String> {
    let api = repository.files.iter().filter(|file| file.path.starts_with("gateway/src/api/"));
    api.flat_map(|file| routes(&file.text)).collect()
}

fn all(repository: &Repository) -> Vec<String> {
    let text = |path| repository.text(path);
    let operations = text("docs/operations.md");
    let mut findings =
        missing_keys(text("gateway/config/default.toml"), text("docs/configuration.md"));
    let catalog = metrics(text("gateway/src/telemetry/catalog.rs"));
    // The convention's own prefix is no name.
    let catalog = catalog.into_iter().filter(|name| name != "bugler_").collect();
    findings.extend(differences("metric", &catalog, &metrics(operations)));
    let explained = codes(text("gateway/src/cli/explain.rs"));
    findings.extend(differences("error code", &explained, &codes(text("docs/errors.md"))));
    let dialects = repository.files.iter().filter(|file| file.path.starts_with("docs/api/"));
    let dialects: String = dialects.map(|file| file.text.as_str()).collect();
    let routes = served(repository);
    if routes.is_empty() {
        findings.push(String::from("no route was found in the code"));
    }
    for route in routes {
        if !dialects.contains(&format!("`{route}`")) {
            findings.push(format!("{route}: a route without a document in docs/api"));
        }
    }
    let exits = exit_codes(text("gateway/src/cli/mod.rs"));
    if exits.is_empty() {
        findings.push(String::from("no exit code was found in the code"));
    }
    for code in exits {
        if !operations.contains(&format!("\n| {code} |")) {
            findings.push(format!("exit code {code} is not in docs/operations.md"));
        }
    }
    let pages = repository.files.iter().filter(|file| file.path.ends_with(".md"));
    findings.extend(pages.flat_map(|page| broken_pointers(page, &repository.files)));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect_none;
    use crate::repository::repository;

    #[test]
    fn documents_name_all_there_is_and_lead_somewhere() {
        expect_none(&all(repository()));
    }

    #[test]
    fn names_on_one_side_only_are_found() {
        let (code, page) =
            (metrics("\"bugler_a_total\" \"bugler_b\""), metrics("`bugler_b` `bugler_c`"));
        assert_eq!(differences("metric", &code, &page).len(), 2);
        assert_eq!(differences("metric", &page, &page), [""; 0]);
        assert_eq!(differences("metric", &BTreeSet::new(), &BTreeSet::new()).len(), 1);
        assert_eq!(codes("BGL-1400, BGL-1 and BGL-14001").len(), 1);
    }

    #[test]
    fn an_undocumented_setting_is_found_in_examples_too() {
        let reference =
            "# Talk = none.\n[server]\nlisten = \"a\"\n#[providers.apns.main]\n#topic = \"t\"\n";
        let page = "`server.listen` `providers.apns.<app>.topic`";
        assert_eq!(missing_keys(reference, page), [""; 0]);
        assert_eq!(missing_keys(reference, "").len(), 2);
        assert_eq!(missing_keys("", page).len(), 1);
    }

    #[test]
    fn routes_and_exit_codes_are_read_from_their_tables() {
        let table = "patterns: &[\n  \"/v1/{id}\", \"/v2\"],\n \"/no\"";
        assert_eq!(routes(table).into_iter().collect::<Vec<_>>(), ["/v1/{id}", "/v2"]);
        let cli = "fn code(self) -> u8 {\n A => 0,\n B(x) => x,\n C => 99,\n    }\n D => 7,";
        assert_eq!(exit_codes(cli).into_iter().collect::<Vec<_>>(), ["0", "99"]);
        let repository = repository();
        assert!(served(repository).len() > 3);
        assert!(exit_codes(repository.text("gateway/src/cli/mod.rs")).len() > 3);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        let file = |path: &str, text: &str| TextFile {
            path: path.to_owned(),
            text: text.to_owned(),
            can_run: false,
        };
        let files =
            [file("docs/a.md", "# One, two\n"), file("README.md", ""), file("scripts/x", "")];
        let broken = |text: &str| broken_pointers(&file("docs/b.md", text), &files).len();
        for good in [
            "[a](a.md) [a](a.md#one-two) [r](../README.md) `scripts/x` `docs/`",
            "[x](https://example.com/x) `scripts/x --flag`",
            "```\n[no](nowhere.md)\n```",
        ] {
            assert_eq!(broken(good), 0, "{good}");
        }
        for bad in ["[a](c.md)", "[a](a.md#three)", "[a](#here)", "`scripts/y`", "[r](README.md)"] {
            assert_eq!(broken(bad), 1, "{bad}");
        }
    }
}
