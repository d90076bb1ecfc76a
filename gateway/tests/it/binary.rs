//! What is inside the binary: nothing of the HTTP and TLS stacks that payload crates bring along.

use std::collections::BTreeMap;
use std::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_bugler");

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).arg(BINARY).output();
    let output =
        output.unwrap_or_else(|error| unreachable!("{program}: {error}; install binutils"));
    assert!(output.status.success(), "{program} cannot read the binary");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn only_the_c_library_is_loaded() {
    let dynamic = output("readelf", &["--dynamic", "--wide"]);
    let needed: Vec<_> = dynamic
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split_once('[')?.1.strip_suffix(']'))
        .collect();
    assert!(needed.iter().any(|library| library.starts_with("libc.so")), "{dynamic}");
    let known = ["libc.so", "libm.so", "libgcc_s.so", "ld-linux"];
    let foreign: Vec<_> =
        needed.iter().filter(|library| !known.iter().any(|k| library.starts_with(k))).collect();
    assert!(foreign.is_empty(), "the binary also needs {foreign:?}");
}

#[test]
fn no_function_of_an_unused_client_is_linked() {
    let symbols = output("nm", &["--demangle", "--defined-only"]);
    let count = |part: &str| symbols.lines().filter(|line| line.contains(part)).count();
    // Without symbols nothing would be found, whatever is linked.
    for used in ["hyper::", "h2::", "rustls::", "fcm_v1::message::", "a2::request::"] {
        assert!(count(used) > 0, "no symbol of {used}: is the binary stripped?");
    }
    for unused in [
        "reqwest::",
        "hyper_rustls::",
        "hyper_tls::",
        "native_tls::",
        "openssl::",
        "openssl_sys::",
        " SSL_CTX_new",
        "fcm_v1::client::",
        "a2::client::",
        "yup_oauth2::authenticator",
        "yup_oauth2::storage",
        "yup_oauth2::service_account::ServiceAccountFlow",
    ] {
        let found = symbols.lines().find(|line| line.contains(unused));
        assert_eq!(found, None, "{unused} is linked");
    }
}

/// Releases of each crate whose code can panic, from the source paths in panic messages.
fn linked_releases() -> BTreeMap<String, Vec<String>> {
    let bytes = std::fs::read(BINARY).expect("the binary can be read");
    let mut releases = BTreeMap::<String, Vec<String>>::new();
    for (at, window) in bytes.windows(5).enumerate() {
        if window != b"/src/" {
            continue;
        }
        let before = bytes.get(at.saturating_sub(64)..at).unwrap_or_default();
        let name = before.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let split = name.match_indices('-').find(|(dash, _)| {
            name.get(dash + 1..).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        });
        let Some((dash, _)) = split else { continue };
        let (name, release) = name.split_at(dash);
        let known = releases.entry(name.to_owned()).or_default();
        if !known.iter().any(|known| known == release) {
            known.push(release.to_owned());
        }
    }
    releases
}

#[test]
fn one_release_of_each_network_crate_is_linked() {
    let releases = linked_releases();
    for (name, release) in [
        ("hyper", "-1."),
        ("h2", "-0.4."),
        ("http", "-1."),
        ("rustls", "-0.23."),
        ("tokio-rustls", "-0.26."),
        ("tokio", "-1."),
    ] {
        let linked = releases.get(name).map_or(&[][..], Vec::as_slice);
        assert_eq!(linked.len(), 1, "{name}: {linked:?}");
        assert!(linked[0].starts_with(release), "{name}: {linked:?}");
    }
    for name in ["reqwest", "hyper-rustls", "hyper-tls", "native-tls", "openssl", "openssl-sys"] {
        assert_eq!(releases.get(name), None, "{name} is linked");
    }
}
