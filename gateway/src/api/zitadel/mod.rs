//! ZITADEL: notification policy. So far only its REST error envelope is served.

pub(crate) mod render;
