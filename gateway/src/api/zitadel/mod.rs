//! ZITADEL: notification policy. So far only its REST error envelope is served.

pub(crate) mod render;

use crate::api::route::Endpoint;

/// What these paths serve.
pub(super) const ENDPOINTS: &[Endpoint] = &[];
