//! The OpenAPI documents of everything the API serves, and the pages that show them.
//!
//! The documents are written by hand under `gateway/openapi`, one per dialect and one with what
//! all of them share. They are merged once a day, since some limits move with the calendar.

mod classes;
mod times;
mod viewer;

#[cfg(test)]
mod tests;

pub(crate) use classes::is_letter;
pub use viewer::Viewer;

use crate::clock::{Clock, SystemClock};
use crate::model::Millis;
use crate::server::{ReplyBody, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::sync::Arc;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// A document changes with a release or a day, and its tag makes asking again cheap.
const CACHED: HeaderValue = HeaderValue::from_static("public, max-age=300");
/// What every document has: the title, the caller's credentials, headers and parameters.
const SHARED: &str = include_str!("../../openapi/common.json");
/// The documents in the order of their tags.
const DIALECTS: [(&str, &str); 6] = [
    ("jigx", include_str!("../../openapi/jigx.json")),
    ("applivery", include_str!("../../openapi/applivery.json")),
    ("blynk", include_str!("../../openapi/blynk.json")),
    ("oauth", include_str!("../../openapi/oauth.json")),
    ("zitadel", include_str!("../../openapi/zitadel.json")),
    ("native", include_str!("../../openapi/native.json")),
];

/// One document as it is served.
#[derive(Debug)]
struct Document {
    path: String,
    body: Bytes,
    tag: HeaderValue,
}

/// Every document as it is on one day, ready to be sent.
#[derive(Clone, Debug)]
pub struct Documents(Arc<[Document]>);

/// The day and its documents.
static TODAY: Mutex<Option<(Millis, Documents)>> = Mutex::new(None);

impl Documents {
    /// The documents of this release, with the limits of today.
    #[must_use]
    pub fn get() -> Self {
        Self::at(SystemClock.now())
    }

    fn at(now: Millis) -> Self {
        let mut today = TODAY.lock();
        match &*today {
            Some((end, documents)) if *end == now.year_ahead() => documents.clone(),
            _ => {
                let documents = Self::build(now);
                *today = Some((now.year_ahead(), documents.clone()));
                documents
            }
        }
    }

    fn build(now: Millis) -> Self {
        let whole = Document::new(String::from("/openapi.json"), &merged(&DIALECTS, now));
        let each = DIALECTS.iter().map(|one| {
            let path = format!("/openapi/{}.json", one.0);
            Document::new(path, &merged(std::slice::from_ref(one), now))
        });
        Self(std::iter::once(whole).chain(each).collect())
    }

    /// The answer to a GET of `path`; `None` if no document lies there.
    #[must_use]
    pub fn reply(&self, path: &str, headers: &HeaderMap) -> Option<Response> {
        let document = self.0.iter().find(|document| document.path == path)?;
        Some(cached(JSON, document.body.clone(), &document.tag, headers))
    }

    /// Where the documents lie, the whole one first.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|document| document.path.as_str())
    }
}

impl Document {
    fn new(path: String, document: &Value) -> Self {
        let body = Bytes::from(document.to_string());
        let tag = tag_of(&body);
        Self { path, body, tag }
    }
}

/// A strong entity tag (RFC 9110 section 8.8.3): the start of the content's SHA-256.
fn tag_of(body: &[u8]) -> HeaderValue {
    let mut tag = String::from("\"");
    for byte in Sha256::digest(body).iter().take(12) {
        write!(tag, "{byte:02x}").ok();
    }
    tag.push('"');
    HeaderValue::from_str(&tag).expect("hexadecimal digits are a valid header value")
}

/// `body`, or 304 if the caller has it already.
fn cached(media: HeaderValue, body: Bytes, tag: &HeaderValue, headers: &HeaderMap) -> Response {
    let is_known = headers.get_all(IF_NONE_MATCH).iter().any(|sent| names_tag(sent, tag));
    let mut response = if is_known {
        let mut response = Response::new(ReplyBody::default());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let mut response = Response::new(ReplyBody::from(body));
        response.headers_mut().insert(CONTENT_TYPE, media);
        response
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, tag.clone());
    headers.insert(CACHE_CONTROL, CACHED);
    response
}

/// True if `If-None-Match` names `tag`, compared weakly (RFC 9110 section 13.1.2).
fn names_tag(sent: &HeaderValue, tag: &HeaderValue) -> bool {
    let Ok(sent) = sent.to_str() else { return false };
    sent.split(',')
        .map(str::trim)
        .any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one).as_bytes() == tag.as_bytes())
}

/// The shared document with `dialects` merged into it, as it is on the day of `now`.
fn merged(dialects: &[(&str, &str)], now: Millis) -> Value {
    let mut whole = parsed(SHARED);
    whole["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    for (_, text) in dialects {
        let Value::Object(document) = parsed(text) else { continue };
        for (name, value) in document {
            match (name.as_str(), value) {
                // One dialect alone goes by its own title.
                ("info", Value::Object(info)) if dialects.len() == 1 => {
                    extend(&mut whole["info"], info);
                }
                ("tags", Value::Array(tags)) => {
                    if let Value::Array(known) = &mut whole["tags"] {
                        known.extend(tags);
                    }
                }
                ("paths", Value::Object(paths)) => extend(&mut whole["paths"], paths),
                ("components", Value::Object(kinds)) => {
                    for (kind, members) in kinds {
                        if let Value::Object(members) = members {
                            extend(&mut whole["components"][kind], members);
                        }
                    }
                }
                _ => {}
            }
        }
    }
    classes::spell_out(&mut whole);
    times::put_limits(&mut whole, now);
    whole
}

/// Adds `members` to `target`, an object or nothing yet.
fn extend(target: &mut Value, members: Map<String, Value>) {
    match target {
        Value::Object(known) => known.extend(members),
        _ => *target = members.into(),
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("the documents are constants that a test parses")
}
