//! The provider against the relay's twin.
