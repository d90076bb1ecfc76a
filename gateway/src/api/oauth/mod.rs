//! The token endpoint: OAuth 2.0 as one dialect documents it, for the clients of all.

pub(crate) mod render;

mod ask;
mod client;
mod grants;
mod refusal;

use crate::api::failure::Failure;
use crate::api::native;
use crate::api::oauth::ask::{Parameters, TokenAsk};
use crate::api::oauth::grants::Issued;
use crate::api::oauth::refusal::TokenRefusal;
use crate::api::query::Query;
use crate::api::route::{Call, Endpoint};
use crate::api::shared::{Head, content_type};
use crate::api::{Answered, Shared};
use crate::server::Request;
use http::Method;

/// Largest form: a few credentials.
const FORM_MAX: u64 = 16 * 1024;

/// What the token endpoint serves.
pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    method: Method::POST,
    patterns: &["/oauth2/token"],
    work: |call| Box::pin(token(call)),
}];

/// What manages its clients in Blynk's paths.
pub(super) const BLYNK_ENDPOINTS: &[Endpoint] = &[Endpoint {
    method: Method::POST,
    patterns: &["/api/v1/organization/oauth/clients/create"],
    work: |call| Box::pin(native::create_client_for_blynk(call)),
}];

/// `POST /oauth2/token`
async fn token(call: Call) -> Result<Answered, Failure> {
    let Call { shared, request, .. } = call;
    let response = match issue(&shared, request).await {
        Ok(issued) => issued.response(),
        Err(refusal) => render::refused(&refusal),
    };
    Ok(Answered::Other(response))
}

async fn issue(shared: &Shared, request: Request) -> Result<Issued, TokenRefusal> {
    let query = Query::of_uri(&request.uri)?;
    let Request { uri, headers, body, peer, .. } = request;
    let body = body.read(FORM_MAX).await.map_err(Failure::from)?;
    let body = if body.is_empty() { Query::default() } else { form(&headers, &body)? };
    let ask = TokenAsk::parse(&headers, &Parameters::new(body, query))?;
    grants::issue(shared, &Head::new(uri, headers, peer), ask).await
}

/// The parameters of a body, which must say that it is a form.
fn form(headers: &http::HeaderMap, body: &[u8]) -> Result<Query, TokenRefusal> {
    let media = content_type(headers).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    if !media.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        let text = "Send the parameters as application/x-www-form-urlencoded.";
        return Err(TokenRefusal::request(text));
    }
    Ok(Query::parse(body)?)
}
