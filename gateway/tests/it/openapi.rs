//! The served documents against the route table, and what both listeners serve of them.

use std::collections::BTreeSet;

use bugler_gateway::api::operations;
use serde_json::Value;

use crate::support::client::{Ask, Protocol};
use crate::support::gateway::Home;
use crate::support::world;

/// `GET /a/{}`: parameters have other names in code.
fn shape(method: &str, path: &str) -> String {
    let mut shape = format!("{} ", method.to_uppercase());
    let mut is_inside = false;
    for character in path.chars() {
        match character {
            '{' => is_inside = true,
            '}' => {
                is_inside = false;
                shape.push_str("{}");
            }
            _ if is_inside => {}
            _ => shape.push(character),
        }
    }
    shape
}

/// Everything a document says is served.
fn documented(document: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let aliases = item["x-bugler-aliases"].as_array().into_iter().flatten();
        let paths = aliases.filter_map(Value::as_str).chain([path.as_str()]);
        for path in paths {
            for method in ["get", "post", "put", "patch", "delete"] {
                if item[method].is_object() {
                    found.insert(shape(method, path));
                }
            }
            let grpc = item.as_object().into_iter().flatten();
            found.extend(grpc.filter_map(|(_, operation)| {
                Some(shape("post", operation["x-bugler-grpc"].as_str()?))
            }));
        }
    }
    found
}

#[tokio::test]
async fn the_document_and_the_route_table_are_equal() {
    let gateway = Home::new(world::directory()).start().await;
    let document = gateway.ask(&Ask::get("/openapi.json")).await.json();
    let documented = documented(&document);
    let served: BTreeSet<_> =
        operations().map(|(method, pattern)| shape(method.as_str(), pattern)).collect();
    let is_rest = |one: &&String| !one.starts_with("POST /zitadel.");
    let undocumented: Vec<_> = served.difference(&documented).filter(is_rest).collect();
    let unserved: Vec<_> = documented.difference(&served).filter(is_rest).collect();
    assert!(
        undocumented.is_empty() && unserved.is_empty(),
        "served and not documented: {undocumented:#?}\ndocumented and not served: {unserved:#?}"
    );
}

#[tokio::test]
async fn documents_are_public_on_both_listeners_and_the_parts_make_the_whole() {
    let gateway = Home::new(world::directory()).start().await;
    let whole = gateway.ask(&Ask::get("/openapi.json")).await;
    assert_eq!(whole.status, 200);
    assert_eq!(whole.header("content-type"), Some("application/json"));
    let tag = whole.header("etag").expect("a tag").to_owned();
    let known = gateway.ask(&Ask::get("/openapi.json").header("if-none-match", &tag)).await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    assert_eq!(gateway.admin("/openapi.json").await.body, whole.body);
    let mut parts = BTreeSet::new();
    for dialect in ["jigx", "applivery", "blynk", "oauth", "zitadel", "native"] {
        let path = format!("/openapi/{dialect}.json");
        let ask = Ask::get(path.as_str());
        let part = ask.send(Protocol::Http2, gateway.api).await;
        assert_eq!(part.status, 200, "{path}");
        assert_eq!(gateway.admin(&path).await.body, part.body, "{path}");
        parts.append(&mut documented(&part.json()));
    }
    assert_eq!(parts, documented(&whole.json()));
    let unknown = gateway.ask(&Ask::get("/openapi/other.json")).await;
    assert_eq!(unknown.status, 404);
}

#[tokio::test]
async fn the_viewer_is_served_to_the_operator_only() {
    let gateway = Home::new(world::directory()).start().await;
    for path in ["/", "/docs", "/docs/docs.js", "/docs/docs.css"] {
        let page = gateway.admin(path).await;
        assert_eq!(page.status, 200, "{path}");
        let policy = page.header("content-security-policy").unwrap_or_default();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{path}: {policy}");
        assert_eq!(gateway.ask(&Ask::get(path)).await.status, 404, "{path}");
    }
    let page = gateway.admin("/docs").await.text();
    assert!(page.contains(&format!("data-origin=\"{}\"", gateway.url())), "{page}");
    let refused = Ask::post("/docs").send(Protocol::Http1, gateway.admin).await;
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
}
