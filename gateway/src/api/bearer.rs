//! From a bearer token to its caller: a JSON Web Token or an opaque key, current and not revoked.

use crate::api::Shared;
use crate::api::failure::{Failure, FailureClass};
use crate::api::signed::Signed;
use crate::auth::{CREDENTIAL_MAX, Caller, PermissionSet, Scope, bearer, hash_of, is_opaque_key};
use http::HeaderMap;
use std::sync::Arc;

impl Shared {
    /// Who calls, checked against what was revoked since the token was made.
    pub(crate) async fn caller(&self, headers: &HeaderMap) -> Result<Signed, Failure> {
        let token = bearer(headers)?;
        if is_opaque_key(token) {
            return self.key_caller(token).await;
        }
        let caller = self.verifier.verify(token)?;
        let is_revoked = |id: &String| self.store.is_revoked(id);
        let names = [Some(&caller.token_id), caller.family.as_ref(), caller.client.as_ref()];
        if names.into_iter().flatten().any(is_revoked) {
            return Err(bad_token("the token was revoked"));
        }
        self.signed_by(caller).await
    }

    /// The caller of an opaque key. Keys are looked up each time, so that a removed one stops at once.
    async fn key_caller(&self, token: &str) -> Result<Signed, Failure> {
        if token.len() > CREDENTIAL_MAX {
            return Err(bad_token("the key is too long"));
        }
        let found = self.store.key(hash_of(token)).await?;
        let now = self.intake.now();
        let key = found.filter(|key| key.expires_at.is_none_or(|end| now < end));
        let key = key.ok_or_else(|| bad_token("the key is not known or has expired"))?;
        let names = |names: &Vec<String>| PermissionSet::of_names(names.iter().map(String::as_str));
        let caller = Caller {
            organization: key.org,
            scope: key.user.map_or(Scope::Organization, Scope::User),
            token_id: key.id.to_string(),
            limited_to: key.limited_to.as_ref().map(names),
            epoch: None,
            family: None,
            client: None,
        };
        self.signed_by(Arc::new(caller)).await
    }
}

fn bad_token(text: &str) -> Failure {
    Failure::new(FailureClass::BadToken, text)
}
