//! The guard against every spelling of an inside address we know.

use super::*;
use GuardError::{Address, Malformed, Name, Port, Scheme, Userinfo};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::net::IpAddr;

fn strict() -> Guard {
    Guard::new(GuardPolicy { allow_http: true, ..GuardPolicy::default() })
}

/// Answers the n-th question with the n-th list; the last list for ever.
#[derive(Debug)]
struct Scripted(Mutex<VecDeque<Vec<IpAddr>>>);

impl Scripted {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |list: &&[&str]| list.iter().map(|a| a.parse().unwrap()).collect();
        Arc::new(Self(Mutex::new(answers.iter().map(parse).collect())))
    }
}

impl Resolve for Scripted {
    fn resolve<'a>(
        &'a self,
        _: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<Vec<SocketAddr>, ResolveError>> {
        let mut answers = self.0.lock();
        let now = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        let now = now.unwrap_or_default();
        Box::pin(async move { Ok(now.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()) })
    }
}

#[test]
fn special_purpose_addresses_are_never_public() {
    let blocked = [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.127.255.255",
        "100.100.100.200",
        "169.254.0.1",
        "169.254.169.254",
        "169.254.170.2",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.0.192",
        "192.0.2.1",
        "192.31.196.1",
        "192.52.193.1",
        "192.88.99.1",
        "192.168.0.1",
        "192.168.255.255",
        "192.175.48.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
        "::",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:8.8.8.8",
        "::8.8.8.8",
        "64:ff9b::7f00:1",
        "64:ff9b::808:808",
        "64:ff9b:1::7f00:1",
        "100::1",
        "100:0:0:1::1",
        "2001::1",
        "2001:0:4136:e378::1",
        "2001:2::1",
        "2001:10::1",
        "2001:20::1",
        "2001:1ff:ffff::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:808:808::1",
        "2620:4f:8000::1",
        "3fff::1",
        "3fff:fff:ffff::1",
        "5f00::1",
        "fc00::1",
        "fd00::1",
        "fd00:ec2::254",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "feff::1",
        "ff02::1",
        "ff0e::1",
        "2606:4700::5efe:7f00:1",
        "2606:4700::200:5efe:a00:1",
        "fe80::5efe:7f00:1",
        "4000::1",
        "8000::1",
        "1::1",
    ];
    for address in blocked {
        assert_eq!(reach(address.parse().unwrap()), Reach::Blocked, "{address}");
    }
}

#[test]
fn neighbours_of_special_ranges_are_public() {
    let public = [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.1",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.0.3.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "198.51.99.255",
        "203.0.112.255",
        "203.0.114.0",
        "223.255.255.255",
        "168.63.129.15",
        "168.63.129.17",
        "2606:4700::1111",
        "2a00:1450::1",
        "2001:200::1",
        "2001:4860::8888",
        "2003::1",
        "2620:50::1",
        "3ffe::1",
    ];
    for address in public {
        assert_eq!(reach(address.parse().unwrap()), Reach::Public, "{address}");
    }
}

#[test]
fn loopback_is_told_apart_because_development_may_allow_it() {
    for address in ["127.0.0.1", "127.255.255.254", "::1"] {
        assert_eq!(reach(address.parse().unwrap()), Reach::Loopback, "{address}");
    }
}

const HOSTILE: &[(&str, GuardError)] = &[
    // Spellings of 127.0.0.1 (and 0.0.0.0).
    ("https://127.0.0.1/", Address),
    ("https://127.1/", Address),
    ("https://0/", Address),
    ("https://2130706433/", Address),
    ("https://0x7f000001/", Address),
    ("https://0x7f.1/", Address),
    ("https://0177.0.0.1/", Address),
    ("https://017700000001/", Address),
    ("https://127.0.0.1./", Address),
    ("https://①②⑦.⓪.⓪.①/", Address),
    ("https://１２７.０.０.１/", Address),
    ("https://127。0。0。1/", Address),
    ("https://%31%32%37.0.0.1/", Address),
    ("https://0.0.0.0/", Address),
    // Version 6.
    ("https://[::1]/", Address),
    ("https://[::]/", Address),
    ("https://[::ffff:127.0.0.1]/", Address),
    ("https://[::ffff:7f00:1]/", Address),
    ("https://[::127.0.0.1]/", Address),
    ("https://[64:ff9b::7f00:1]/", Address),
    ("https://[fe80::1%25eth0]/", Malformed),
    ("https://[fec0::1]/", Address),
    ("https://[2002:7f00:1::]/", Address),
    ("https://[::1/", Malformed),
    // Inside and metadata.
    ("https://10.0.0.1/", Address),
    ("https://169.254.169.254/latest/meta-data/", Address),
    ("https://168.63.129.16/", Address),
    ("https://100.100.100.200/", Address),
    ("https://192.0.0.192/", Address),
    ("https://[fd00:ec2::254]/", Address),
    ("https://metadata.google.internal/", Name),
    // Names.
    ("https://localhost/", Name),
    ("https://LOCALHOST/", Name),
    ("https://localhost./", Name),
    ("https://a.localhost/", Name),
    ("https://ip6-localhost/", Name),
    ("https://localhost.localdomain/", Name),
    ("https://intranet/", Name),
    ("https://printer.local/", Name),
    ("https://db.internal./", Name),
    ("https://router.home.arpa/", Name),
    ("https://127.0.0.1.nip.io/", Name),
    ("https://10-0-0-1.sslip.io/", Name),
    ("https://localtest.me/", Name),
    ("https://a.lvh.me/", Name),
    ("https://bugler.example.com/", Name),
    ("https://BUGLER.example.com./", Name),
    // Schemes.
    ("gopher://127.0.0.1/", Scheme),
    ("file:///etc/passwd", Scheme),
    ("dict://1.1.1.1/", Scheme),
    ("ftp://1.1.1.1/", Scheme),
    ("jar:https://1.1.1.1!/", Scheme),
    ("data:text/plain,x", Scheme),
    ("javascript:alert(1)", Scheme),
    ("unix:/var/run/x", Scheme),
    ("ws://1.1.1.1/", Scheme),
    // Tricks of parsers.
    ("http:127.0.0.1", Address),
    ("http:/\\127.0.0.1", Address),
    ("http:\\\\127.0.0.1", Address),
    ("https://127.0.0.1\\@1.1.1.1/", Address),
    ("https://127.0.0.1#@1.1.1.1/", Address),
    ("https://1.1.1.1@127.0.0.1/", Userinfo),
    ("https://user:pass@example.com/", Userinfo),
    ("https://1.1.1.1 &@2.2.2.2# @3.3.3.3/", Userinfo),
    ("https://127.0.0.1%00.example.com/", Malformed),
    ("https://127.0.0.1%0d%0a/", Malformed),
    ("https://127.\t0.0.\n1/", Address),
    ("https://", Malformed),
    ("", Malformed),
    ("example.com", Malformed),
    ("//example.com", Malformed),
    ("https://1.1.1.1:99999/", Malformed),
    // Ports.
    ("https://example.com:22/", Port),
    ("https://example.com:25/", Port),
    ("https://example.com:1023/", Port),
    ("https://example.com:0/", Port),
    ("https://example.com:3306/", Port),
    ("https://example.com:5432/", Port),
    ("https://example.com:6379/", Port),
    ("https://example.com:9200/", Port),
    ("https://example.com:11211/", Port),
    ("https://example.com:27017/", Port),
];

#[test]
fn hostile_urls_are_refused_for_the_right_reason() {
    let policy = GuardPolicy {
        allow_http: true,
        own_hosts: vec![String::from("bugler.example.com")],
        ..GuardPolicy::default()
    };
    let guard = Guard::new(policy);
    let wrong: Vec<_> = HOSTILE
        .iter()
        .map(|(url, want)| (url, want, guard.check_url(url).err()))
        .filter(|(_, want, got)| *got != Some(**want))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_generated_spelling_of_an_inside_address_is_refused() {
    let inside = [
        [127, 0, 0, 1],
        [10, 0, 0, 1],
        [172, 16, 0, 1],
        [192, 168, 1, 1],
        [169, 254, 169, 254],
        [100, 100, 100, 200],
        [168, 63, 129, 16],
        [192, 0, 0, 192],
        [0, 0, 0, 0],
        [255, 255, 255, 255],
        [224, 0, 0, 1],
        [198, 18, 0, 1],
    ];
    let mut tried = 0;
    for [a, b, c, d] in inside {
        let whole = u32::from_be_bytes([a, b, c, d]);
        let tail = whole & 0x00ff_ffff;
        let low = whole & 0xffff;
        let circled = |n: u8| -> String {
            n.to_string()
                .bytes()
                .map(|d| ['⓪', '①', '②', '③', '④', '⑤', '⑥', '⑦', '⑧', '⑨'][usize::from(d - b'0')])
                .collect()
        };
        let wide = |n: u8| -> String {
            n.to_string()
                .bytes()
                .map(|d| {
                    ['０', '１', '２', '３', '４', '５', '６', '７', '８', '９']
                        [usize::from(d - b'0')]
                })
                .collect()
        };
        let hosts = [
            format!("{a}.{b}.{c}.{d}"),
            format!("{whole}"),
            format!("0x{whole:x}"),
            format!("0X{whole:X}"),
            format!("0{whole:o}"),
            format!("{a}.{tail}"),
            format!("{a}.{b}.{low}"),
            format!("0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}"),
            format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
            format!("0x{a:02x}.{b}.0{c:o}.{d}"),
            format!("000{a:o}.000{b:o}.000{c:o}.000{d:o}"),
            format!("0x0{a:x}.0x0{tail:x}"),
            format!("{a}.{b}.{c}.{d}."),
            format!("{a}。{b}。{c}。{d}"),
            format!("{a}．{b}．{c}．{d}"),
            format!("{}.{}.{}.{}", circled(a), circled(b), circled(c), circled(d)),
            format!("{}.{}.{}.{}", wide(a), wide(b), wide(c), wide(d)),
            format!("{a}.{b}.{c}.{d}").replace('1', "%31"),
            format!("{a}%2e{b}%2E{c}%2e{d}"),
            format!("[::ffff:{a}.{b}.{c}.{d}]"),
            format!("[::{a}.{b}.{c}.{d}]"),
            format!("[::ffff:0:{a}.{b}.{c}.{d}]"),
            format!("[64:ff9b::{a}.{b}.{c}.{d}]"),
            format!("[64:ff9b:1::{a}.{b}.{c}.{d}]"),
            format!("[2002:{:x}:{:x}::1]", whole >> 16, low),
            format!("[2001:0:{:x}:{:x}::1]", whole >> 16, low),
            format!("[2606:4700::5efe:{a}.{b}.{c}.{d}]"),
            format!("[2606:4700::200:5efe:{a}.{b}.{c}.{d}]"),
            format!("[fe80::5efe:{a}.{b}.{c}.{d}]"),
        ];
        for host in hosts {
            for url in [format!("https://{host}/x"), format!("http://{host}:8080/x?y#z")] {
                tried += 1;
                assert!(strict().check_url(&url).is_err(), "{url}");
            }
        }
    }
    assert!(tried > 400, "{tried} spellings");
}

#[test]
fn ordinary_targets_pass() {
    for url in [
        "https://example.com/",
        "https://example.com:8443/hook?a=b",
        "https://1.1.1.1/",
        "https://[2606:4700::1111]/",
        "http://example.com/",
        "https://example.com:443/",
        "https://hooks.slack.com/services/T0/B0/x",
        "https://bücher.example/",
        "https://example.com./",
    ] {
        strict().check_url(url).unwrap_or_else(|e| panic!("{url}: {e}"));
    }
}

#[test]
fn what_is_judged_is_what_is_connected_to() {
    // Parsers disagree on these; ours both judges and connects.
    for (url, host) in [
        ("https://1.1.1.1\\@127.0.0.1/", "1.1.1.1"),
        ("https://1.1.1.1#@127.0.0.1/", "1.1.1.1"),
        ("https://1.1.1.1?@127.0.0.1/", "1.1.1.1"),
        ("https://010.0.0.1/", "8.0.0.1"),
    ] {
        let url = strict().check_url(url).unwrap();
        assert_eq!(url.host_str(), Some(host));
    }
}

#[test]
fn http_loopback_and_length_follow_the_policy() {
    let default = Guard::new(GuardPolicy::default());
    assert_eq!(default.check_url("http://example.com/"), Err(Scheme));
    let long = format!("https://example.com/{}", "a".repeat(URL_BYTES_MAX));
    assert_eq!(default.check_url(&long), Err(GuardError::TooLong));
    let policy = GuardPolicy { allow_http: true, allow_loopback: true, ..GuardPolicy::default() };
    let local = Guard::new(policy);
    for url in
        ["http://127.0.0.1:6379/", "http://localhost:1/", "https://[::1]/", "http://x.localhost/"]
    {
        local.check_url(url).unwrap_or_else(|e| panic!("{url}: {e}"));
    }
    for url in
        ["http://10.0.0.1/", "http://[fd00::1]/", "http://169.254.169.254/", "http://db.internal/"]
    {
        assert!(local.check_url(url).is_err(), "{url}");
    }
}

#[tokio::test]
async fn one_inside_address_spoils_the_whole_answer() {
    let url = Url::parse("https://example.com/").unwrap();
    for inside in ["127.0.0.1", "10.0.0.1", "::1", "fd00::1", "::ffff:10.0.0.1"] {
        for answer in [&["1.1.1.1", inside][..], &[inside, "1.1.1.1"], &[inside]] {
            let guard = Guard::with_resolver(GuardPolicy::default(), Scripted::new(&[answer]));
            assert_eq!(guard.resolve_pinned(&url).await, Err(Address), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_name_that_changes_its_mind_is_judged_again() {
    let resolver = Scripted::new(&[&["1.1.1.1"], &["192.168.0.1"]]);
    let guard = Guard::with_resolver(GuardPolicy::default(), resolver);
    let url = Url::parse("https://rebind.example.com/").unwrap();
    let pinned = guard.resolve_pinned(&url).await.unwrap();
    assert_eq!(pinned, ["1.1.1.1:443".parse().unwrap()]);
    assert_eq!(guard.resolve_pinned(&url).await, Err(Address));
}

#[tokio::test]
async fn addresses_in_the_url_are_pinned_without_a_resolver() {
    let guard = Guard::with_resolver(GuardPolicy::default(), Scripted::new(&[&["1.1.1.1"]]));
    let url = Url::parse("https://[2606:4700::1111]:8443/").unwrap();
    let pinned = guard.resolve_pinned(&url).await.unwrap();
    assert_eq!(pinned, ["[2606:4700::1111]:8443".parse().unwrap()]);
}

#[tokio::test]
async fn our_own_ports_are_closed_on_every_address_of_this_machine() {
    let policy = GuardPolicy {
        allow_http: true,
        allow_loopback: true,
        own_ports: vec![2845],
        ..GuardPolicy::default()
    };
    let resolver = Scripted::new(&[&["127.0.0.1"]]);
    let guard = Guard::with_resolver(policy, resolver);
    for url in ["http://127.0.0.1:2845/", "http://[::1]:2845/", "http://127.9.9.9:2845/"] {
        assert_eq!(guard.check_url(url), Err(Address), "{url}");
    }
    assert!(guard.check_url("http://127.0.0.1:2846/").is_ok());
    assert!(guard.check_url("https://1.1.1.1:2845/").is_ok(), "a port of somebody else");
    let own = Url::parse("http://loop.example.com:2845/").unwrap();
    assert_eq!(guard.resolve_pinned(&own).await, Err(Address));
    let other = Url::parse("http://loop.example.com:2847/").unwrap();
    assert!(guard.resolve_pinned(&other).await.is_ok());
}
