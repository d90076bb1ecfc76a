//! Certificates: the good one is trusted, and each bad one is refused for its own reason.

use bugler_loadtest::twins::{Certificate, TwinOptions};

use crate::support::{soon, tls, twins_with};

#[tokio::test]
async fn each_bad_certificate_is_refused_for_its_own_reason() {
    for (webhook_certificate, reason) in [
        (Certificate::Good, None),
        (Certificate::Expired, Some("Expired")),
        (Certificate::NotYetValid, Some("NotValidYet")),
        (Certificate::WrongHost, Some("NotValidForName")),
        (Certificate::SelfSigned, Some("")),
        (Certificate::UnknownAuthority, Some("UnknownIssuer")),
    ] {
        let twins = twins_with(TwinOptions { webhook_certificate, ..TwinOptions::default() }).await;
        let connected = soon(tls(twins.ca_pem(), &twins.webhook_url(), b"http/1.1")).await;
        match reason {
            None => assert!(connected.is_ok()),
            Some(reason) => {
                let error = connected.expect_err("a bad certificate");
                assert!(
                    format!("{error:?}").contains(reason),
                    "{webhook_certificate:?}: {error:?}"
                );
            }
        }
    }
}
