//! Google's token endpoint for service accounts (RFC 7523), and the access tokens it issued.

use std::collections::HashMap;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use url::form_urlencoded;
use uuid::Uuid;

use crate::twins::credentials::Credentials;
use crate::twins::reply::Call;
use crate::wall;

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const SCOPES: [&str; 2] = [
    "https://www.googleapis.com/auth/firebase.messaging",
    "https://www.googleapis.com/auth/cloud-platform",
];
/// Google: an assertion may be valid for one hour at most.
const ASSERTION_S_MAX: u64 = 3600;
const SKEW_S_MAX: u64 = 60;
const TOKENS_MAX: usize = 4096;

pub(crate) struct TokenIssuer {
    key: DecodingKey,
    audience: String,
    client_email: String,
    lifetime_s: u64,
    /// Tokens issued and when they end, in milliseconds.
    issued: Mutex<HashMap<String, u64>>,
}

pub(super) struct Refusal {
    pub(super) code: u16,
    error: &'static str,
    pub(super) description: &'static str,
}

impl Refusal {
    pub(super) fn body(&self) -> Value {
        json!({ "error": self.error, "error_description": self.description })
    }
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    scope: String,
    iat: u64,
    exp: u64,
}

impl TokenIssuer {
    /// # Errors
    /// The public key of the credentials is not an RSA key.
    pub(crate) fn new(
        credentials: &Credentials,
        lifetime_s: u64,
    ) -> Result<Self, jsonwebtoken::errors::Error> {
        Ok(Self {
            key: DecodingKey::from_rsa_pem(credentials.fcm_public_pem.as_bytes())?,
            audience: credentials.fcm_token_uri.clone(),
            client_email: credentials.fcm_client_email.clone(),
            lifetime_s,
            issued: Mutex::default(),
        })
    }

    pub(super) fn is_valid(&self, token: &str, now_ms: u64) -> bool {
        self.issued.lock().get(token).is_some_and(|ends_ms| now_ms < *ends_ms)
    }

    pub(super) fn exchange(&self, call: &Call, now_s: u64) -> Result<Value, Refusal> {
        let refuse = |error, description| Refusal { code: 400, error, description };
        if call.method != http::Method::POST {
            return Err(Refusal { code: 405, ..refuse("invalid_request", "the method is POST") });
        }
        if !call.has_content_type("application/x-www-form-urlencoded") {
            return Err(refuse("invalid_request", "the content type is not a form"));
        }
        let mut grant_type = None;
        let mut assertion = None;
        for (name, value) in form_urlencoded::parse(&call.body) {
            match name.as_ref() {
                "grant_type" => grant_type = Some(value),
                "assertion" => assertion = Some(value),
                _ => {}
            }
        }
        if grant_type.as_deref() != Some(GRANT_TYPE) {
            return Err(refuse("unsupported_grant_type", "the grant type is not jwt-bearer"));
        }
        let assertion = assertion.ok_or_else(|| refuse("invalid_request", "no assertion"))?;
        self.verify(&assertion, now_s)
            .map_err(|description| refuse("invalid_grant", description))?;
        Ok(self.issue())
    }

    fn verify(&self, assertion: &str, now_s: u64) -> Result<(), &'static str> {
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_required_spec_claims(&["aud", "iss", "exp"]);
        validation.set_audience(&[&self.audience]);
        validation.leeway = SKEW_S_MAX;
        let decoded = decode::<Claims>(assertion, &self.key, &validation);
        let claims =
            decoded.map_err(|_| "Invalid JWT: signature, audience, issuer or time")?.claims;
        if claims.iss != self.client_email {
            return Err("Invalid issuer");
        }
        if !claims.scope.split(' ').any(|scope| SCOPES.contains(&scope)) {
            return Err("Invalid OAuth scope");
        }
        if claims.iat > now_s + SKEW_S_MAX || claims.exp > claims.iat + ASSERTION_S_MAX {
            return Err("Invalid JWT: Token must be a short-lived token (60 minutes)");
        }
        Ok(())
    }

    fn issue(&self) -> Value {
        let token = format!("ya29.twin-{}", Uuid::new_v4().simple());
        let now_ms = wall::unix_ms();
        let mut issued = self.issued.lock();
        issued.retain(|_, ends_ms| now_ms < *ends_ms);
        if issued.len() < TOKENS_MAX {
            issued.insert(token.clone(), now_ms + self.lifetime_s * 1000);
        }
        json!({ "access_token": token, "expires_in": self.lifetime_s, "token_type": "Bearer" })
    }
}
