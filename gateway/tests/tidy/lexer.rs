//! Tells Rust code from comments and literals, well enough to search in.

/// `text` with every comment and the inside of every literal blanked out. Byte offsets and lines
/// stay as they were; the opening quote of a string stays visible.
pub(crate) fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(next) = rest.chars().next() {
        let hidden = hidden_length(rest, before).unwrap_or(0);
        if hidden == 0 {
            code.push(next);
            rest = rest.get(next.len_utf8()..).unwrap_or_default();
            before = next;
            continue;
        }
        let (inside, behind) = rest.split_at(hidden);
        let quote = inside.find('"').filter(|_| !inside.starts_with('/'));
        for (offset, character) in inside.char_indices() {
            match character {
                '\n' => code.push('\n'),
                _ if quote == Some(offset) => code.push('"'),
                _ => code.extend(std::iter::repeat_n(' ', character.len_utf8())),
            }
        }
        rest = behind;
        before = ' ';
    }
    code
}

/// Bytes of the comment or literal that `rest` starts with, if it does.
fn hidden_length(rest: &str, before: char) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    if rest.starts_with('"') {
        return Some(string(rest));
    }
    if is_word(before) {
        return None;
    }
    let prefix = rest.len() - rest.trim_start_matches(['b', 'c', 'r']).len();
    let (letters, quoted) = rest.split_at(prefix.min(2));
    match letters {
        "r" | "br" | "cr" => raw_string(quoted).map(|length| letters.len() + length),
        "b" | "c" if quoted.starts_with('"') => Some(letters.len() + string(quoted)),
        _ => None,
    }
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    for (offset, _) in rest.char_indices() {
        let here = rest.get(offset..).unwrap_or_default();
        if here.starts_with("/*") {
            depth += 1;
        } else if here.starts_with("*/") {
            depth -= 1;
            if depth == 0 {
                return offset + 2;
            }
        }
    }
    rest.len()
}

/// A character literal; `None` for a lifetime.
fn character(rest: &str) -> Option<usize> {
    let mut characters = rest.char_indices().skip(1);
    match characters.next()? {
        (_, '\\') => {
            let closing = characters.skip(1).find(|(_, character)| *character == '\'');
            closing.map(|(offset, _)| offset + 1)
        }
        _ => characters.next().filter(|(_, c)| *c == '\'').map(|(offset, _)| offset + 1),
    }
}

fn string(rest: &str) -> usize {
    let mut is_escaped = false;
    for (offset, character) in rest.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return offset + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A raw string without its letters; `None` for a raw identifier.
fn raw_string(rest: &str) -> Option<usize> {
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let inside = rest.get(hashes..)?.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
    Some(hashes + 1 + length)
}

/// Whether `character` can be part of an identifier.
pub(crate) fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests {
    use super::code_only;

    #[track_caller]
    fn check(text: &str, code: &str) {
        let found = code_only(text);
        assert_eq!(found.len(), text.len(), "offsets stay");
        assert_eq!(found, code);
    }

    #[test]
    fn comments_are_blank() {
        check("a // b\nc", "a     \nc");
        check("a /* /* b */ \n */ c", "a            \n    c");
        check("/// x \"y\"\nz", "         \nz");
    }

    #[test]
    fn literals_keep_their_first_quote_only() {
        check(r#"f("a // \" b", c)"#, r#"f("          , c)"#);
        check("f(r#\"a \" b\"#, 'x', '\\'', b\"q\")", "f(  \"       ,    ,     ,  \"  )");
        check("\"ä\"b", "\"   b");
    }

    #[test]
    fn lifetimes_and_raw_names_are_code() {
        for code in ["fn f<'a>(x: &'a str)", "r#type + bar", "let br = cr;", "for x in b {}"] {
            check(code, code);
        }
    }
}
