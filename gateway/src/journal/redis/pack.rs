//! The few forms of MessagePack that carry a commit's program into its script.

/// A value under construction.
#[derive(Debug, Default)]
pub(super) struct Pack(Vec<u8>);

impl Pack {
    pub(super) fn array(&mut self, count: usize) -> &mut Self {
        self.0.push(0xdd);
        self.length(count)
    }

    pub(super) fn int(&mut self, value: i64) -> &mut Self {
        self.0.push(0xd3);
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn number(&mut self, value: u64) -> &mut Self {
        // Above 2^53 Lua would round; nothing here is as large.
        self.int(i64::try_from(value).unwrap_or(i64::MAX))
    }

    pub(super) fn text(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        match u8::try_from(bytes.len()) {
            Ok(length) => self.0.extend_from_slice(&[0xd9, length]),
            Err(_) => {
                self.0.push(0xdb);
                self.length(bytes.len());
            }
        }
        self.0.extend_from_slice(bytes);
        self
    }

    fn length(&mut self, length: usize) -> &mut Self {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
        self
    }
}

/// A list that grows: what it holds, and how many values these are.
#[derive(Debug, Default)]
pub(super) struct List {
    values: Pack,
    count: usize,
}

impl List {
    pub(super) fn int(&mut self, value: i64) -> &mut Self {
        self.count += 1;
        self.values.int(value);
        self
    }

    pub(super) fn number(&mut self, value: u64) -> &mut Self {
        self.count += 1;
        self.values.number(value);
        self
    }

    pub(super) fn text(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.count += 1;
        self.values.text(bytes);
        self
    }

    pub(super) fn list(&mut self, list: &Self) -> &mut Self {
        self.count += 1;
        self.values.array(list.count);
        self.values.0.extend_from_slice(&list.values.0);
        self
    }
}

/// A table of named values; empty lists are left out.
#[derive(Debug, Default)]
pub(super) struct Table {
    values: Pack,
    count: usize,
}

impl Table {
    pub(super) fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.count += 1;
        self.values.text(name).number(value);
        self
    }

    pub(super) fn text(&mut self, name: &str, value: impl AsRef<[u8]>) -> &mut Self {
        self.count += 1;
        self.values.text(name).text(value);
        self
    }

    pub(super) fn list(&mut self, name: &str, list: &List) -> &mut Self {
        if list.count > 0 {
            self.count += 1;
            self.values.text(name).array(list.count);
            self.values.0.extend_from_slice(&list.values.0);
        }
        self
    }

    pub(super) fn finish(&self) -> Vec<u8> {
        let mut out = Pack(vec![0xdf]);
        out.length(self.count);
        out.0.extend_from_slice(&self.values.0);
        out.0
    }
}
