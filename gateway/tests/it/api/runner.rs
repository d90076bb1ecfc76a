//! Runs a case file against a gateway of its own and checks what holds for every answer.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::case::{self, Case, File};
use super::pattern::Matcher;
use super::template::fill;
use crate::support::client::{Ask, Protocol, Reply};
use crate::support::gateway::Home;
use crate::support::now_ms;
use crate::support::world;

/// How often, and after which pauses, a case is asked again that must be right eventually.
const TRIES: u32 = 400;
const PAUSE: Duration = Duration::from_millis(25);

pub(super) async fn run(text: &str) {
    let file = case::read(text);
    let mut directory = world::directory();
    world::add_known_hooks(&mut directory);
    let home = Home::new(directory).set("store.segment=1MiB");
    // Cases try wrong secrets more often than any client may.
    let home = home.set("auth.client_failures=0");
    // Or invite more often than any organization may.
    let home = home.set("limits.invites_per_day=0").set("limits.invites_per_address=0");
    let gateway = home.start().await;
    let tokens = tokens(&home).await;
    let stores_nothing = !file.case.iter().any(Case::changes_records);
    let before = journal(&home.store());
    let mut accepted = 0;
    let mut problems = Vec::new();
    let mut kept: [Kept; 2] = Default::default();
    for case in file.case.iter().flat_map(Case::spread) {
        for (protocol, kept) in Protocol::ALL.into_iter().zip(&mut kept) {
            let case = case.clone().with(kept);
            let ask = ask(&file, &case, &tokens);
            let mut reply = ask.send(protocol, gateway.api).await;
            for _ in 0..if case.eventually { TRIES } else { 0 } {
                if judge(&file, &case, &reply).is_ok() {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
                reply = ask.send(protocol, gateway.api).await;
            }
            let mut problem = |text: String| {
                problems.push(format!("{} over {protocol:?}: {text}", case.name));
            };
            if let Err(text) = judge(&file, &case, &reply) {
                problem(format!("{text}\n    {} {}", reply.status, reply.text()));
            }
            for (name, pointer) in &case.keep {
                match reply.json().pointer(pointer).and_then(Value::as_str) {
                    Some(found) => drop(kept.insert(name.clone(), found.to_owned())),
                    None => problem(format!("there is no text at {pointer} to keep as {name}")),
                }
            }
            accepted += u64::from(case.is_stored());
            let counted = gateway.accepted().await;
            if counted != accepted {
                problem(format!("{counted} notifications are stored, not {accepted}"));
                accepted = counted;
            }
        }
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    if stores_nothing {
        assert!(journal(&home.store()) == before, "refusals wrote to the journal");
    }
}

/// A fingerprint of everything the journal's segments hold.
fn journal(store: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut files: Vec<_> = std::fs::read_dir(store.join("journal"))
        .expect("the gateway made a journal")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "the journal has a segment");
    for file in files {
        hasher.write(&std::fs::read(file).expect("a segment can be read"));
    }
    hasher.finish()
}

/// What earlier answers held, for one protocol.
type Kept = HashMap<String, String>;

type Tokens = HashMap<&'static str, String>;

/// Every kind of caller a case can name.
async fn tokens(home: &Home) -> Tokens {
    let signer = home.signer();
    let now = now_ms() / 1000;
    let claim = |name: &'static str, value: Value| {
        signer.changed(|_, claims| {
            claims[name] = value;
        })
    };
    HashMap::from([
        ("organization", home.token(101).await),
        ("branch", home.token(102).await),
        ("rival", home.token(201).await),
        ("nowhere", home.token(999).await),
        ("admin", home.user_token(101, 101).await),
        ("member", home.user_token(101, 102).await),
        ("staff", home.user_token(101, 103).await),
        ("suspended", home.user_token(101, 104).await),
        ("moved", home.user_token(101, 201).await),
        ("made", signer.changed(|_, _| {})),
        ("forged", signer.forged()),
        ("expired", claim("exp", (now - 60).into())),
        ("exp-text", claim("exp", (now + 60).to_string().into())),
        ("not-yet", claim("nbf", (now + 3600).into())),
        ("from-tomorrow", claim("iat", (now + 86_400).into())),
        ("other-issuer", claim("iss", "https://elsewhere.example".into())),
        ("other-audience", claim("aud", "elsewhere".into())),
        ("two-audiences", claim("aud", serde_json::json!(["bugler", "elsewhere"]))),
        ("no-organization", claim("org", Value::Null)),
        ("no-scope", claim("scope", "root".into())),
        ("limited", claim("perms", serde_json::json!(["user.view"]))),
        ("inviter", claim("perms", serde_json::json!(["user.invite"]))),
        ("editor", claim("perms", serde_json::json!(["user.edit"]))),
        ("none-alg", signer.unsigned("none")),
        ("hs512", signer.changed(|header, _| header.alg = jsonwebtoken::Algorithm::HS512)),
        ("hs384", signer.changed(|header, _| header.alg = jsonwebtoken::Algorithm::HS384)),
        ("other-kid", signer.changed(|header, _| header.kid = Some(String::from("../keys")))),
        ("typ", signer.changed(|header, _| header.typ = Some(String::from("JWE")))),
        ("no-exp", signer.changed(|_, claims| drop(remove(claims, "exp")))),
        ("no-aud", signer.changed(|_, claims| drop(remove(claims, "aud")))),
        ("no-iss", signer.changed(|_, claims| drop(remove(claims, "iss")))),
        ("no-sub", signer.changed(|_, claims| drop(remove(claims, "sub")))),
    ])
}

fn remove(claims: &mut Value, name: &str) -> Option<Value> {
    claims.as_object_mut().and_then(|claims| claims.remove(name))
}

fn ask(file: &File, case: &Case, tokens: &Tokens) -> Ask {
    let path = fill(case.path.as_ref().unwrap_or(&file.path));
    let mut ask = Ask::new(&case.method, path);
    let token = case.token.as_deref().unwrap_or(&file.token);
    let authorization = match token {
        "" => None,
        // A header written out, for schemes and forms no token has.
        text if text.starts_with('=') => Some(fill(text.trim_start_matches('='))),
        text if text.starts_with("BEARER ") => {
            Some(format!("BEARER {}", tokens[text.trim_start_matches("BEARER ")]))
        }
        text => Some(format!("Bearer {}", tokens[text])),
    };
    if let Some(authorization) = authorization {
        ask = ask.header("authorization", &authorization);
    }
    let content_type = case.content_type.as_ref().unwrap_or(&file.content_type);
    if !content_type.is_empty() {
        ask = ask.header("content-type", content_type);
    }
    for [name, value] in &case.headers {
        ask = ask.header(name, &fill(value));
    }
    ask.body = match &case.body_hex {
        Some(hex) => bytes_of(hex),
        None => fill(case.body.as_ref().unwrap_or(&file.body)).into(),
    };
    ask
}

fn bytes_of(hex: &str) -> Bytes {
    let digits: Vec<_> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    let byte = |pair: &[u32]| u8::try_from(pair.iter().fold(0, |sum, digit| sum * 16 + digit));
    digits.chunks(2).map(|pair| byte(pair).expect("two digits are a byte")).collect()
}

fn judge(file: &File, case: &Case, reply: &Reply) -> Result<(), String> {
    if reply.status != case.status {
        return Err(format!("status {}, not {}", reply.status, case.status));
    }
    judge_always(case.path.as_ref().unwrap_or(&file.path), reply)?;
    for (name, wanted) in &case.answer_headers {
        judge_header(name, wanted, reply)?;
    }
    match case.answer.as_deref() {
        Some("") if reply.body.is_empty() => {}
        Some("") => return Err(String::from("the body is not empty")),
        Some(pattern) => {
            let pattern = serde_json::from_str(&fill(pattern)).expect("a pattern is JSON");
            Matcher::default().check(&pattern, &reply.json())?;
        }
        None => {}
    }
    match &case.wrong {
        Some(wanted) => judge_fields(wanted, reply),
        None => Ok(()),
    }
}

fn judge_header(name: &str, wanted: &str, reply: &Reply) -> Result<(), String> {
    let found = reply.header(name);
    let fits = match wanted {
        "<absent>" => found.is_none(),
        "<text>" => found.is_some_and(|text| !text.is_empty()),
        "<uuid>" => found.is_some_and(|text| uuid::Uuid::try_parse(text).is_ok()),
        // Chosen by the gateway: nothing of the caller in it.
        "<fresh>" => found
            .is_some_and(|text| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())),
        _ => found == Some(wanted),
    };
    if fits { Ok(()) } else { Err(format!("header {name} is {found:?}, not {wanted}")) }
}

/// The wrong fields, as Jigx and the native dialect list them, or as the detail header has them.
fn judge_fields(wanted: &[String], reply: &Reply) -> Result<(), String> {
    let listed = reply.json()["errors"].as_array().cloned();
    let found: Vec<String> = match listed {
        Some(errors) => {
            let path = |error: &Value| error["path"].as_str().unwrap_or("no path").to_owned();
            errors.iter().map(path).collect()
        }
        None => {
            let detail = reply.header("bugler-error-detail").unwrap_or_default();
            let first = |part: &str| part.split(' ').next().unwrap_or_default().to_owned();
            detail.split("; ").map(first).collect()
        }
    };
    if found == wanted { Ok(()) } else { Err(format!("wrong fields {found:?}, not {wanted:?}")) }
}

/// What every answer of every dialect has.
fn judge_always(path: &str, reply: &Reply) -> Result<(), String> {
    judge_header("x-request-id", "<text>", reply)?;
    judge_header("x-content-type-options", "nosniff", reply)?;
    if reply.status < 400 {
        return judge_header("bugler-error", "<absent>", reply);
    }
    judge_header("bugler-notification-id", "<absent>", reply)?;
    let code = reply.header("bugler-error").unwrap_or_default();
    let digits = code.strip_prefix("BGL-").unwrap_or_default();
    if digits.len() != 4 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("bugler-error is {code:?}"));
    }
    judge_envelope(path, reply)
}

/// A refusal's body has the form of the dialect that owns the path, and nothing else in it.
fn judge_envelope(path: &str, reply: &Reply) -> Result<(), String> {
    let body: Value =
        serde_json::from_slice(&reply.body).map_err(|error| format!("no JSON: {error}"))?;
    let names: Vec<&str> =
        body.as_object().into_iter().flatten().map(|(n, _)| n.as_str()).collect();
    let is_in = |prefixes: &[&str]| {
        let rests = prefixes.iter().filter_map(|prefix| path.strip_prefix(prefix));
        rests.into_iter().any(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut media = "application/json";
    let fits = if is_in(&["/v2.0/tool", "/tool"]) {
        body["message"].is_string() && matches!(*names, ["message"] | ["message", "errors"])
    } else if is_in(&["/v1/organizations"]) {
        let is_error = body["error"]["code"].is_u64() && body["error"]["message"].is_string();
        is_error && body["status"] == false && names == ["status", "error"]
    } else if is_in(&["/api/v1"]) {
        body["error"]["message"].is_string() && names == ["error"]
    } else if is_in(&["/oauth2"]) {
        let fits = body["error"].is_string() && body["error_description"].is_string();
        fits && names == ["error", "error_description"]
    } else if is_in(&["/management/v1", "/admin/v1"]) || path.starts_with("/zitadel.") {
        body["code"].is_u64() && names == ["code", "message", "details"]
    } else {
        media = "application/problem+json";
        body["status"] == reply.status
            && names.starts_with(&["type", "title", "status", "code", "detail"])
    };
    if !fits {
        return Err(format!("not the envelope of the dialect: {body}"));
    }
    judge_header("content-type", media, reply)
}
