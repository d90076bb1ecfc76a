//! Paths of somebody's machine, addresses of people, and hosts nobody decided to name.

use crate::repository::{Repository, TextFile};

/// Not ours to judge: generated, or the licences' own words.
const LEFT_OUT: [&str; 3] = ["Cargo.lock", "LICENSE", "gateway/tests/tidy/"];
const MACHINE_PATHS: [&str; 4] = ["/root/", "/home/", "/Users/", "/work/"];
/// In the customer's own sample.
const KNOWN_ADDRESSES: [&str; 1] = ["username@jigx.com"];
/// Names reserved for examples, tests and inner networks (RFC 2606, 6762, 8375), and the form of Google's
/// service accounts.
const RESERVED: [&str; 12] = [
    "example",
    "example.com",
    "example.net",
    "example.org",
    "test",
    "invalid",
    "localhost",
    "local",
    "localdomain",
    "home.arpa",
    "internal",
    "iam.gserviceaccount.com",
];
const HOSTS: [&str; 17] = [
    "accounts.google.com",
    "api.push.apple.com",
    "api.sandbox.push.apple.com",
    "docs.rs",
    "fcm.googleapis.com",
    "github.com",
    "hooks.slack.com",
    "keepachangelog.com",
    "localtest.me",
    "a.lvh.me",
    "oauth2.googleapis.com",
    "rustup.rs",
    "semver.org",
    "slack.com",
    "www.googleapis.com",
    "www.standardwebhooks.com",
    "www.w3.org",
];

fn is_reserved(host: &str) -> bool {
    let host = host.trim_start_matches('-').to_ascii_lowercase();
    RESERVED.iter().any(|reserved| {
        host.strip_suffix(reserved).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// Runs of characters that `is_part` accepts.
fn runs(text: &str, is_part: impl Fn(char) -> bool) -> impl Iterator<Item = &str> {
    text.split(move |character| !is_part(character)).filter(|run| !run.is_empty())
}

fn paths(line: &str) -> Option<&'static str> {
    MACHINE_PATHS.into_iter().find(|path| {
        line.match_indices(path).any(|(offset, _)| {
            let before = line.get(..offset).and_then(|line| line.chars().next_back());
            before.is_none_or(|before| " \t\"'`=(:[".contains(before))
        })
    })
}

fn addresses(line: &str) -> Option<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "._%+-@".contains(c);
    runs(line, is_part).map(|run| run.trim_matches(['.', '-', '%'])).find(|run| {
        let Some((name, host)) = run.split_once('@') else { return false };
        let Some((domain, ending)) = host.rsplit_once('.') else { return false };
        let is_address = !name.is_empty()
            && !host.contains('@')
            && ending.len() >= 2
            && ending.chars().all(|c| c.is_ascii_alphabetic());
        // `a@b.de` stands for any address; nobody is called that.
        let is_placeholder = domain.len() <= 2 && name.len() <= 2;
        is_address
            && !is_placeholder
            && !is_reserved(host)
            && !KNOWN_ADDRESSES.iter().any(|known| run.eq_ignore_ascii_case(known))
    })
}

fn hosts(line: &str) -> Option<&str> {
    let urls = line.split("://").skip(1).zip(line.split("://"));
    let web = urls.filter(|(_, before)| before.ends_with("http") || before.ends_with("https"));
    let hosts = web.filter_map(|(rest, _)| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        // Before an `@` stands a user's name.
        let (host, behind) = rest.split_at(end);
        (!behind.starts_with('@')).then(|| host.trim_end_matches('.'))
    });
    hosts.into_iter().find(|host| {
        let is_number = host.starts_with(|c: char| c.is_ascii_digit());
        host.contains('.') && !is_number && !is_reserved(host) && !HOSTS.contains(host)
    })
}

fn leaks(file: &TextFile) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(file.text.lines()) {
        let place = format!("{}:{number}", file.path);
        if let Some(path) = paths(line) {
            findings.push(format!("{place}: {path} is a place on somebody's machine"));
        }
        if let Some(address) = addresses(line) {
            findings.push(format!("{place}: {address} may be somebody's; use example.com"));
        }
        if let Some(host) = hosts(line) {
            findings.push(format!("{place}: {host} is not in the list of known hosts"));
        }
    }
    findings
}

fn all(repository: &Repository) -> Vec<String> {
    let is_judged = |file: &&TextFile| !LEFT_OUT.iter().any(|out| file.path.starts_with(out));
    repository.files.iter().filter(is_judged).flat_map(leaks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect_none;
    use crate::repository::repository;

    fn found(text: &str) -> usize {
        let (path, text) = (String::from("a.md"), text.to_owned());
        leaks(&TextFile { path, text, can_run: false }).len()
    }

    #[test]
    fn nothing_in_the_repository_points_at_a_machine_or_a_person() {
        expect_none(&all(repository()));
    }

    #[test]
    fn paths_addresses_and_hosts_are_found() {
        for bad in [
            "see /home/ada/bugler",
            "dir = \"/root/data\"",
            "write to ada@lovelace.org",
            "<john.doe@mail.corp.io>",
            "https://build.corp.io/x",
            "`http://intranet.corp.io`",
        ] {
            assert_eq!(found(bad), 1, "{bad}");
        }
    }

    #[test]
    fn examples_pass() {
        for good in [
            "ada@example.com, username@jigx.com, a@b.de",
            "event-routing@0.1.0 and a2@0.10",
            "https://api.push.apple.com/3/device/x and http://127.0.0.1:2845",
            "https://x.example/home/ and https://user@host",
            "/run/credentials/apns.p8",
        ] {
            assert_eq!(found(good), 0, "{good}");
        }
    }
}
