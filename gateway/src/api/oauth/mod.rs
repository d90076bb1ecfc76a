//! The token endpoint: OAuth 2.0 as one dialect documents it, for the clients of all.

pub(crate) mod render;

mod ask;
mod client;
mod refusal;
mod tries;
