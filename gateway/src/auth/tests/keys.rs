//! Key files: created private, refused when weak, ambiguous or readable by others.

use super::*;
use crate::auth::keys::KeyError;
use std::os::unix::fs::PermissionsExt;

const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC3pAP8FjmwSNPMNCzLvndbL1AA
s+ui0lJDdidKmPPXgd+LX3Um1yItH9jlhvL1WW7NltUqyLs0teubkUVrloNGb5lR
Cpm8QP70MNbCt2eoHviaQLr/T+D+19t6Cqztp9AGtWo5t8sShn47su4GI58eTIbG
jHUDExHawlFcjguFcQIDAQAB
-----END PUBLIC KEY-----
";
const P384: &str = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEtoA6sJ677nAw8yALguKW6ou64X82AgO+
UxzszXZak6Ifpf+sWaf42YaEPE0I0PYLQC4LfIK95F3YlQMeGyKuj0lqLKRSUem/
WNNVsLw/0ZN55oj/Lq+1JucLOoibPnxy
-----END PUBLIC KEY-----
";

fn refusal(entries: &[serde_json::Value]) -> String {
    let json = serde_json::json!({ "keys": entries }).to_string();
    KeyRing::parse(&json).unwrap_err().to_string()
}

#[test]
fn an_absent_file_is_created_private_and_stays_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    let keys = Arc::new(KeyRing::load_or_create(&path).unwrap());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = Arc::new(KeyRing::load_or_create(&path).unwrap());
    let (verifier, clock) = verifier(again);
    let minter = TokenMinter::new(keys, ISSUER, AUDIENCE, Arc::new(clock)).unwrap();
    let grant = Grant {
        organization: OrganizationId(1),
        scope: Scope::Organization,
        subject: String::from("cli"),
        limited_to: None,
        lifetime: Duration::from_secs(60),
        origin: Origin::default(),
    };
    verifier.verify(&minter.mint(&grant).unwrap()).unwrap();
    let other = KeyRing::load_or_create(&dir.path().join("other.json")).unwrap();
    assert!(self::verifier(Arc::new(other)).0.verify(&minter.mint(&grant).unwrap()).is_err());
}

#[test]
fn a_file_others_can_read_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    KeyRing::load_or_create(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = KeyRing::load_or_create(&path).unwrap_err();
    assert!(matches!(error, KeyError::Readable { .. }));
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

#[test]
fn weak_keys_are_refused() {
    let hs = |secret: &[u8]| serde_json::json!({ "kid": "k", "alg": "HS256", "secret_base64": STANDARD.encode(secret) });
    assert!(refusal(&[hs(b"")]).contains("too short"));
    assert!(refusal(&[hs(&[7; 31])]).contains("too short"));
    let pem = rsa().public_key_pem();
    assert!(refusal(&[hs(pem.as_bytes())]).contains("PEM file"));
    assert!(refusal(&[hs(format!("\n {pem}").as_bytes())]).contains("PEM file"));
    let public =
        |alg: &str, pem: &str| serde_json::json!({ "kid": "k", "alg": alg, "public_pem": pem });
    assert!(refusal(&[public("RS256", RSA_1024)]).contains("2048 bits"));
    assert!(refusal(&[public("ES256", P384)]).contains("P-256"));
    assert!(refusal(&[public("RS256", &rsa().serialize_pem())]).contains("key"));
}

#[test]
fn ambiguous_or_mismatched_entries_are_refused_by_name() {
    let hs = serde_json::json!({
        "kid": "k", "alg": "HS256", "secret_base64": STANDARD.encode(SECRET)
    });
    assert!(refusal(&[hs.clone(), hs.clone()]).contains("two keys are called `k`"));
    assert!(refusal(&[]).contains("no key"));
    let with = |name: &str, value: &str| {
        let mut entry = hs.clone();
        entry[name] = value.into();
        refusal(&[entry])
    };
    for alg in ["none", "hs256", "HS512", "PS256", ""] {
        assert!(with("alg", alg).contains("alg must be"), "{alg}");
    }
    assert!(with("public_pem", "x").contains("secret_base64 only"));
    assert!(with("kid", "").contains("kid"));
    assert!(with("use", "sig").contains("not valid JSON of the documented shape"));
    let mut swapped = serde_json::json!({ "kid": "k", "alg": "RS256" });
    assert!(refusal(&[swapped.clone()]).contains("public_pem is missing"));
    swapped["public_pem"] = rsa().public_key_pem().into();
    swapped["private_pem"] = rsa().serialize_pem().into();
    assert!(refusal(&[swapped]).contains("does not belong"));
    let ed = KeyPair::generate_for(&PKCS_ED25519).unwrap().public_key_pem();
    let wrong = serde_json::json!({ "kid": "k", "alg": "ES256", "public_pem": ed });
    assert!(refusal(&[wrong]).contains("not a public key of this algorithm"));
}

#[test]
fn no_key_material_is_printed() {
    let keys = ring(&[hs256_entry("a")]);
    let shown = format!("{keys:?}");
    assert!(!shown.contains(&STANDARD.encode(SECRET)), "{shown}");
    assert!(!shown.contains("48, 49, 50"), "{shown}");
}

#[test]
fn a_ring_of_public_keys_cannot_mint() {
    let pem = rsa().public_key_pem();
    let entry = serde_json::json!({ "kid": "k", "alg": "RS256", "public_pem": pem }).to_string();
    let clock = Arc::new(TestClock::at(Millis(0)));
    let minter = TokenMinter::new(ring(&[entry]), ISSUER, AUDIENCE, clock);
    assert!(matches!(minter, Err(MintError::NoSigningKey)));
}
