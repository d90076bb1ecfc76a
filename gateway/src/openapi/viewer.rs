//! The operator's pages: a start page, and one that shows the documents.
//!
//! All of it is in the binary and asks nobody else, so it works without a network.

use super::{cached, tag_of};
use crate::server::Response;
use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_FRAME_OPTIONS};
use http::{HeaderMap, HeaderValue};
use std::net::SocketAddr;
use std::sync::Arc;

/// Nothing runs, loads or is asked that is not served here; no script or style stands in a page.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'",
);
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const START: &str = include_str!("../../openapi/viewer/start.html");
const PAGE: &str = include_str!("../../openapi/viewer/docs.html");
const SCRIPT: &str = include_str!("../../openapi/viewer/docs.js");
const STYLE: &str = include_str!("../../openapi/viewer/docs.css");
/// Stands in the page for where the API listens.
const ORIGIN: &str = "{{origin}}";

#[derive(Debug)]
struct Page {
    path: &'static str,
    media: HeaderValue,
    body: Bytes,
    tag: HeaderValue,
}

impl Page {
    fn new(path: &'static str, media: HeaderValue, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let tag = tag_of(&body);
        Self { path, media, body, tag }
    }
}

/// The operator's pages.
#[derive(Clone, Debug)]
pub struct Viewer(Arc<[Page]>);

impl Viewer {
    /// `api` is where callers reach the API, for the examples; `tls` if they use https.
    #[must_use]
    pub fn new(api: SocketAddr, tls: bool) -> Self {
        let scheme = if tls { "https" } else { "http" };
        // Nobody can call the wildcard address.
        let origin = if api.ip().is_unspecified() {
            format!("{scheme}://localhost:{}", api.port())
        } else {
            format!("{scheme}://{api}")
        };
        let script = HeaderValue::from_static("text/javascript; charset=utf-8");
        let style = HeaderValue::from_static("text/css; charset=utf-8");
        Self(Arc::new([
            Page::new("/", HTML, START),
            Page::new("/docs", HTML, PAGE.replace(ORIGIN, &origin)),
            Page::new("/docs/docs.js", script, SCRIPT),
            Page::new("/docs/docs.css", style, STYLE),
        ]))
    }

    /// Where the pages lie.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|page| page.path)
    }

    /// The answer to a GET of `path`; `None` if there is no page.
    #[must_use]
    pub fn reply(&self, path: &str, headers: &HeaderMap) -> Option<Response> {
        let page = self.0.iter().find(|page| page.path == path)?;
        let mut response = cached(page.media.clone(), page.body.clone(), &page.tag, headers);
        let headers = response.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, POLICY);
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        Some(response)
    }
}
