//! A Lua script, and one call of it with keys and arguments.

use bytes::Bytes;
use redis::Cmd;
use std::sync::OnceLock;

/// A Lua script, made for a `static`; Redis is sent its text once and its hash from then on.
///
/// Every script without one gets a first line `#!lua` with flags: with it Redis refuses a script as a whole
/// while it is out of memory, read-only, short of replicas or short of disk, instead of in its
/// middle, and refuses keys of other slots. A script answers `redis.error_reply('FENCED …')` for
/// [`super::RedisError::Fenced`].
#[derive(Debug)]
pub struct Script {
    prelude: &'static str,
    body: &'static str,
    flags: Flags,
    is_wide: bool,
    made: OnceLock<Made>,
}

/// A key that is never there. Asked for beside others while its slot moves, a cluster answers
/// `TRYAGAIN`: of the keys that a script finds by itself some may be here and some there.
const GUARD: &str = "whole";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flags {
    Writes,
    Frees,
    Reads,
}

#[derive(Debug)]
struct Made {
    text: String,
    hash: String,
}

impl Script {
    /// A script that writes. `body` is without the first line.
    #[must_use]
    pub const fn new(body: &'static str) -> Self {
        Self::with(body, Flags::Writes)
    }

    /// A script that frees more than it adds: it also runs while Redis is out of memory.
    #[must_use]
    pub const fn freeing(body: &'static str) -> Self {
        Self::with(body, Flags::Frees)
    }

    /// A script that only reads: no copies are waited for.
    #[must_use]
    pub const fn reading(body: &'static str) -> Self {
        Self::with(body, Flags::Reads)
    }

    /// The same with `prelude` before its body: see [`super::owners::OWNED`].
    #[must_use]
    pub const fn after(mut self, prelude: &'static str) -> Self {
        self.prelude = prelude;
        self
    }

    /// The same where it goes to keys of its slot beyond those it is called with: it does not run
    /// while the slot is on the move. It must not count its keys.
    #[must_use]
    pub const fn wide(mut self) -> Self {
        self.is_wide = true;
        self
    }

    const fn with(body: &'static str, flags: Flags) -> Self {
        Self { prelude: "", body, flags, is_wide: false, made: OnceLock::new() }
    }

    pub(super) fn is_write(&self) -> bool {
        self.flags != Flags::Reads
    }

    fn made(&self) -> &Made {
        self.made.get_or_init(|| {
            let flags = match self.flags {
                Flags::Writes => "",
                Flags::Frees => " flags=allow-oom",
                Flags::Reads => " flags=no-writes",
            };
            let text = if self.body.starts_with("#!lua") {
                self.body.to_owned()
            } else {
                format!("#!lua{flags}\n{}{}", self.prelude, self.body)
            };
            let hash = redis::Script::new(&text).get_hash().to_owned();
            Made { text, hash }
        })
    }
}

/// One run of a script. All keys are of one slot.
#[derive(Clone, Debug)]
pub struct Call {
    script: &'static Script,
    keys: Vec<Bytes>,
    args: Vec<Bytes>,
}

impl Call {
    #[must_use]
    pub fn new(script: &'static Script) -> Self {
        Self { script, keys: Vec::new(), args: Vec::new() }
    }

    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.keys.push(key.into());
        self
    }

    #[must_use]
    pub fn arg(mut self, arg: impl Into<Bytes>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// A number as Lua reads it.
    #[must_use]
    pub fn number(self, number: u64) -> Self {
        self.arg(number.to_string())
    }

    pub(super) fn script(&self) -> &'static Script {
        self.script
    }

    pub(super) fn first_key(&self) -> &[u8] {
        self.keys.first().map(Bytes::as_ref).unwrap_or_default()
    }

    /// A key in the slot of the others that is never there.
    fn guard(&self) -> Option<Vec<u8>> {
        let key = self.first_key();
        let tag = key.iter().position(|byte| *byte == b'}')?;
        Some([key.get(..=tag)?, b":", GUARD.as_bytes()].concat())
    }

    /// The command: by hash, or with the text where Redis does not know the hash.
    pub(super) fn command(&self, with_text: bool) -> Cmd {
        let size = self.keys.iter().chain(&self.args).map(Bytes::len).sum::<usize>();
        let count = 4 + self.keys.len() + self.args.len();
        let made = self.script.made();
        let (verb, code) = if with_text { ("EVAL", &made.text) } else { ("EVALSHA", &made.hash) };
        let mut command = Cmd::with_capacity(count, size + code.len() + 32);
        let guard = if self.script.is_wide { self.guard() } else { None };
        command.arg(verb).arg(code).arg(self.keys.len() + usize::from(guard.is_some()));
        for key in &self.keys {
            command.arg(key.as_ref());
        }
        if let Some(guard) = guard {
            command.arg(guard);
        }
        for part in &self.args {
            command.arg(part.as_ref());
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_that_finds_keys_by_itself_names_one_that_is_never_there() {
        static WIDE: Script = Script::reading("return KEYS[1]").wide();
        static NARROW: Script = Script::reading("return KEYS[1]");
        let packed = |script| {
            let call = Call::new(script).key(&b"bugler:{s003}:m"[..]).arg(&b"one"[..]);
            String::from_utf8(call.command(false).get_packed_command()).expect("it is text")
        };
        assert!(packed(&WIDE).ends_with(
            "$1\r\n2\r\n$15\r\nbugler:{s003}:m\r\n$19\r\nbugler:{s003}:whole\r\n$3\r\none\r\n"
        ));
        assert!(packed(&NARROW).ends_with("$1\r\n1\r\n$15\r\nbugler:{s003}:m\r\n$3\r\none\r\n"));
    }
}
