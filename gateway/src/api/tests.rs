//! Routing, and every failure in every dialect's envelope.

use super::failure::{Failure, FailureClass};
use super::route::{Dialect, endpoints};
use crate::server::{ReplyBody, Response};
use serde_json::{Value, json};

fn body(response: &Response) -> Value {
    let ReplyBody::Full(bytes) = response.body() else { return Value::Null };
    serde_json::from_slice(bytes).expect("a JSON body")
}

#[test]
fn every_pattern_is_routable_and_belongs_to_its_dialect() {
    let mut router = matchit::Router::new();
    let mut seen = std::collections::HashSet::new();
    for (dialect, endpoint) in endpoints() {
        for pattern in endpoint.patterns {
            assert_eq!(Dialect::of(pattern), dialect, "{pattern}");
            if seen.insert(*pattern) {
                let known = router.insert(*pattern, Vec::new());
                assert!(known.is_ok(), "{pattern}: {known:?}");
            }
            let methods = router.at_mut(pattern).expect("inserted").value;
            assert!(!methods.contains(&endpoint.method), "twice: {} {pattern}", endpoint.method);
            methods.push(endpoint.method.clone());
        }
    }
}

#[test]
fn prefixes_decide_the_dialect_and_do_not_leak_into_each_other() {
    for (path, dialect) in [
        ("/v2.0/tool/x", Dialect::Jigx),
        ("/tool", Dialect::Jigx),
        ("/toolbox", Dialect::Native),
        ("/v1/organizations/acme/notifications/", Dialect::Applivery),
        ("/v1/organizationsx", Dialect::Native),
        ("/api/v1/organization/user", Dialect::Blynk),
        ("/management/v1/policies/notification", Dialect::Zitadel),
        ("/admin/v1/policies/notification", Dialect::Zitadel),
        ("/oauth2/token", Dialect::Oauth),
        ("/oauth2x/token", Dialect::Native),
        ("/bugler/v1/notifications", Dialect::Native),
        ("/", Dialect::Native),
    ] {
        assert_eq!(Dialect::of(path), dialect, "{path}");
    }
}

#[test]
fn documented_refusals_are_exact_in_every_dialect() {
    let render = |dialect: Dialect, class| dialect.render(&Failure::new(class, "why"));
    for (dialect, class, status, expected) in [
        (Dialect::Jigx, FailureClass::NoToken, 401, json!({"message": "Unauthorized"})),
        (Dialect::Jigx, FailureClass::BadToken, 401, json!({"message": "Unauthorized"})),
        (Dialect::Jigx, FailureClass::NotFound, 404, json!({"message": "Not Found"})),
        (Dialect::Jigx, FailureClass::MethodNotAllowed, 404, json!({"message": "Not Found"})),
        (Dialect::Jigx, FailureClass::Throttled, 429, json!({"message": "Too Many Requests"})),
        (
            Dialect::Applivery,
            FailureClass::NoToken,
            401,
            json!({"status": false, "error": {"code": 4002, "message": "No auth token"}}),
        ),
        (
            Dialect::Applivery,
            FailureClass::BadToken,
            401,
            json!({"status": false, "error": {"code": 4004, "message": "Invalid Token"}}),
        ),
        (
            Dialect::Applivery,
            FailureClass::NotFound,
            404,
            json!({"status": false, "error": {"code": 3001, "message": "Entity not found"}}),
        ),
        (
            Dialect::Blynk,
            FailureClass::BadToken,
            401,
            json!({"error": {"message": "Invalid token."}}),
        ),
        (Dialect::Blynk, FailureClass::NotFound, 404, json!({"error": {"message": "why"}})),
        (
            Dialect::Zitadel,
            FailureClass::NoToken,
            401,
            json!({"code": 16, "message": "auth header missing", "details": []}),
        ),
        (
            Dialect::Zitadel,
            FailureClass::MethodNotAllowed,
            405,
            json!({"code": 12, "message": "Method Not Allowed", "details": []}),
        ),
    ] {
        let response = render(dialect, class);
        assert_eq!(response.status(), status, "{dialect:?} {class:?}");
        assert_eq!(body(&response), expected, "{dialect:?} {class:?}");
    }
}

#[test]
fn every_failure_has_its_code_and_waits_where_it_helps_in_every_dialect() {
    let dialects =
        [Dialect::Jigx, Dialect::Applivery, Dialect::Blynk, Dialect::Zitadel, Dialect::Native];
    for dialect in dialects {
        for class in FailureClass::ALL {
            let response = dialect.render(&Failure::new(class, "why \u{e9}\r\n"));
            let header = |name: &str| response.headers().get(name).map(|v| v.as_bytes().to_vec());
            assert_eq!(header("bugler-error"), Some(class.code().as_bytes().to_vec()));
            let waits = matches!(
                class,
                FailureClass::Throttled
                    | FailureClass::Overloaded
                    | FailureClass::Uncertain
                    | FailureClass::Conflict
            );
            let is_unknown = class == FailureClass::Uncertain;
            let unknown = is_unknown.then(|| b"unknown".to_vec());
            assert_eq!(header("bugler-outcome"), unknown, "{dialect:?} {class:?}");
            assert_eq!(header("retry-after").is_some(), waits, "{dialect:?} {class:?}");
            assert!(response.status().is_client_error() || response.status().is_server_error());
            assert!(body(&response).is_object());
        }
    }
}
