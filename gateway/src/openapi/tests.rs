//! The documents hang together: what they point to is there, and every operation says all it must.

use super::{DIALECTS, Documents, Viewer, classes, merged};
use crate::model::Millis;
use crate::server::{ReplyBody, Response};
use http::header::{ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const NOW: Millis = Millis(1_795_219_200_123);
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

fn every(value: &Value, visit: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                visit(name, member);
                every(member, visit);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| every(item, visit)),
        _ => {}
    }
}

/// Every operation with its path and the parameters of both.
fn operations(document: &Value) -> Vec<(String, &Value, Vec<&Value>)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in METHODS.iter().filter(|method| item[**method].is_object()) {
            let operation = &item[*method];
            let lists = [&item["parameters"], &operation["parameters"]];
            let parameters = lists.into_iter().filter_map(Value::as_array).flatten().collect();
            found.push((format!("{method} {path}"), operation, parameters));
        }
    }
    found
}

fn body(response: Option<Response>) -> Vec<u8> {
    let response = response.expect("something is served there");
    let ReplyBody::Full(bytes) = response.body() else { unreachable!("a whole body") };
    bytes.to_vec()
}

#[test]
fn every_reference_leads_somewhere_in_every_document() {
    let each = DIALECTS.iter().map(|one| merged(std::slice::from_ref(one), NOW));
    for document in each.chain([merged(&DIALECTS, NOW)]) {
        let mut lost = BTreeSet::new();
        every(&document, &mut |name, value| {
            if name == "$ref" {
                let target = value.as_str().and_then(|to| document.pointer(to.strip_prefix('#')?));
                if target.is_none() {
                    lost.insert(value.to_string());
                }
            }
        });
        assert!(lost.is_empty(), "{}: {lost:?}", document["info"]["title"]);
        assert_eq!(document["openapi"], "3.1.1");
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}

#[test]
fn every_operation_says_who_may_call_it_and_how_it_answers() {
    let document = merged(&DIALECTS, NOW);
    let mut ids = BTreeSet::new();
    let tags = document["tags"].as_array().expect("tags");
    for (name, operation, parameters) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap_or_default();
        assert!(ids.insert(id.to_owned()) && !id.is_empty(), "{name}: {id}");
        assert!(tags.iter().any(|tag| tag["name"] == operation["tags"][0]), "{name}: tag");
        assert!(operation["summary"].is_string(), "{name}: summary");
        let security = operation["security"].as_array();
        let security = security.unwrap_or_else(|| unreachable!("{name}: security"));
        let statuses: Vec<_> =
            operation["responses"].as_object().expect("responses").keys().collect();
        assert!(statuses.iter().any(|status| status.starts_with('2')), "{name}: no success");
        let is_protected = security.iter().any(|one| one.get("bearer").is_some());
        assert_eq!(is_protected, statuses.iter().any(|status| *status == "401"), "{name}: 401");
        let wanted: BTreeSet<_> =
            name.split('{').skip(1).filter_map(|rest| rest.split('}').next()).collect();
        let in_path: BTreeSet<_> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path" && parameter["required"] == true)
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        assert_eq!(in_path, wanted, "{name}: parameters of the path");
        for parameter in parameters {
            assert!(parameter["schema"].is_object(), "{name}: {parameter}");
        }
        for media in operation["requestBody"]["content"].as_object().into_iter().flatten() {
            assert!(media.1["examples"].is_object(), "{name}: no example of a body");
        }
    }
    assert!(ids.len() > 40, "{} operations", ids.len());
}

#[test]
fn failures_are_in_one_envelope_with_a_code_and_an_example() {
    let document = merged(&DIALECTS, NOW);
    for (name, response) in document["components"]["responses"].as_object().expect("responses") {
        assert!(response["headers"]["Bugler-Error"].is_object(), "{name}");
        let media = response["content"].as_object().expect("content");
        let (media_type, media) = media.iter().next().expect("a type");
        let wanted = if name.starts_with("Native") {
            "application/problem+json"
        } else {
            "application/json"
        };
        assert_eq!(media_type, wanted, "{name}");
        assert!(media["example"].is_object() || media["examples"].is_object(), "{name}");
    }
}

#[test]
fn no_two_dialects_use_one_name_for_two_things() {
    for kind in ["schemas", "responses", "headers", "parameters"] {
        let mut seen = BTreeSet::new();
        for (dialect, text) in DIALECTS {
            let document: Value = serde_json::from_str(text).expect("JSON");
            let members = document["components"][kind].as_object().cloned().unwrap_or_default();
            for name in members.keys() {
                assert!(seen.insert(name.clone()), "{dialect}: {kind} {name}");
            }
        }
    }
}

#[test]
fn a_known_tag_is_answered_without_a_body() {
    let documents = Documents::get();
    let first = documents.reply("/openapi.json", &HeaderMap::new()).expect("the document");
    let tag = first.headers()[ETAG].clone();
    let asked = |tag: HeaderValue| {
        let headers = HeaderMap::from_iter([(IF_NONE_MATCH, tag)]);
        documents.reply("/openapi.json", &headers).expect("an answer").status().as_u16()
    };
    let weak = format!("\"other\", W/{}", tag.to_str().expect("ASCII"));
    assert_eq!(asked(tag), 304);
    assert_eq!(asked(HeaderValue::try_from(weak).expect("a header")), 304);
    assert_eq!(asked(HeaderValue::from_static("*")), 304);
    assert_eq!(asked(HeaderValue::from_static("\"other\"")), 200);
    assert_eq!(documents.paths().count(), DIALECTS.len() + 1);
    assert!(documents.reply("/openapi/other.json", &HeaderMap::new()).is_none());
    for path in documents.paths() {
        let served: Value = serde_json::from_slice(&body(documents.reply(path, &HeaderMap::new())))
            .expect("JSON is served");
        assert!(served["paths"].as_object().is_some_and(|paths| !paths.is_empty()), "{path}");
    }
}

#[test]
fn classes_of_characters_are_spelled_out_as_ranges() {
    let mut document = json!({ "a": [{ "pattern": r"^[\p{L} .'-]*$" }], "b": r"\p{L}" });
    classes::spell_out(&mut document);
    let pattern = document["a"][0]["pattern"].as_str().expect("text");
    assert!(pattern.starts_with("^[A-Za-zªµºÀ-ÖØ-öø-"), "{pattern}");
    assert!(pattern.ends_with(" .'-]*$") && pattern.chars().count() > 1000);
    assert_eq!(document["b"], r"\p{L}");
    every(&merged(&DIALECTS, NOW), &mut |name, value| {
        let text = value.to_string();
        assert!(name != "pattern" || !text.contains("p{") && !text.contains("{{"), "{text}");
    });
}

#[test]
fn pages_run_nothing_but_their_own_script_and_ask_nobody_else() {
    let viewer = Viewer::new(([0, 0, 0, 0], 8080).into(), true);
    let mut count = 0;
    for path in viewer.paths() {
        let response = viewer.reply(path, &HeaderMap::new()).expect("a page");
        let policy = response.headers()["content-security-policy"].to_str().expect("ASCII");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; "), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        let text = String::from_utf8(body(Some(response))).expect("text");
        for foreign in [
            "http://",
            "//cdn",
            "@import",
            " url(",
            ":url(",
            "innerHTML",
            "eval(",
            " onclick",
            "<style",
        ] {
            assert!(!text.contains(foreign), "{path}: {foreign}");
        }
        for script in text.split("<script").skip(1) {
            assert!(script.starts_with(" src=\"/docs/docs.js\" defer></script>"), "{path}");
        }
        count += 1;
    }
    assert_eq!(count, 4);
    let page = String::from_utf8(body(viewer.reply("/docs", &HeaderMap::new()))).expect("text");
    assert!(page.contains("data-origin=\"https://localhost:8080\""), "{page}");
}
