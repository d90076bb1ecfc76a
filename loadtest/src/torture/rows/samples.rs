//! Components that no gateway may run: written byte by byte, cut, or changed at places a seed draws.

use rand::RngExt;
use rand::rngs::StdRng;
use wasm_encoder::Encode;

const CORE: &[u8] = b"\0asm\x01\0\0\0";
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
/// One type: nothing in, nothing out.
const PLAIN_TYPE: &[u8] = &[1, 0x60, 0, 0];
const CORE_MODULE: u8 = 1;
const TYPE: u8 = 1;
const FUNCTION: u8 = 3;
const TABLE: u8 = 4;
const MEMORY: u8 = 5;
const START: u8 = 8;
const CODE: u8 = 10;
const DATA: u8 = 11;
const END: u8 = 0x0b;
const CHANGED_MAX: usize = 64;

/// A component, and what it is.
pub(super) type Sample = (&'static str, Vec<u8>);

/// What can be no rule, whoever made it. `whole` can be one, `bare` lacks the manifest.
pub(super) fn malformed(whole: &[u8], core: &[u8], bare: &[u8]) -> Vec<Sample> {
    let foreign = {
        // An instance type without members, and an import of it.
        let name = b"wasi:cli/environment@0.2.0";
        let mut import = vec![1, 0];
        name.len().encode(&mut import);
        import.extend_from_slice(name);
        import.extend([5, 0]);
        [COMPONENT, &section(7, &[1, 0x42, 0]), &section(10, &import)].concat()
    };
    let manifest = |text: &[u8]| {
        let name = "bugler-rule";
        let mut content = Vec::new();
        name.len().encode(&mut content);
        content.extend([name.as_bytes(), text].concat());
        section(0, &content)
    };
    let with = |text: &str| [bare, &manifest(text.as_bytes())].concat();
    let one = "[rule]\nname = \"sample\"\nversion = \"1.0.0\"\n";
    vec![
        ("nothing", Vec::new()),
        ("text", b"(component)".to_vec()),
        ("a core module", core.to_vec()),
        ("an empty component", COMPONENT.to_vec()),
        ("another world", [COMPONENT, &manifest(one.as_bytes())].concat()),
        ("an unknown import", foreign),
        ("no manifest", bare.to_vec()),
        ("two manifests", [whole, &manifest(one.as_bytes())].concat()),
        ("a manifest that is no text", [bare, &manifest(&[0xff; 9])].concat()),
        ("a manifest without a name", with("[rule]\nversion = \"1.0.0\"\n")),
        ("other hooks", with(&format!("{one}hooks = [\"authorize\"]\n"))),
        ("looser limits", with(&format!("{one}[limits]\nmemory = \"15GiB\"\n"))),
        ("an unknown version", [CORE.get(..4).unwrap_or_default(), &[0xff; 4]].concat()),
        ("bytes behind the end", [whole, &[0xff; 9]].concat()),
    ]
}

/// Rules with a part that breaks as it starts.
pub(super) fn unstartable(whole: &[u8]) -> Vec<Sample> {
    let started = |code: &[u8]| {
        let parts = [section(START, &[0]), section(CODE, &bodies(&[body(code)]))];
        module(&[section(FUNCTION, &[1, 0]), parts.concat()])
    };
    let sized = |id: u8, head: &[u8], size: usize| {
        let mut content = head.to_vec();
        size.encode(&mut content);
        [CORE, &section(id, &content)].concat()
    };
    // One byte at the end of the address space.
    let byte = section(DATA, &[1, 0, 0x41, 0x7f, END, 1, 0]);
    let outside = [CORE, &section(MEMORY, &[1, 0, 1]), &byte].concat();
    let parts = [
        ("a loop as it starts", started(&[0x03, 0x40, 0x0c, 0, END])),
        ("unreachable as it starts", started(&[0x00])),
        ("division by zero as it starts", started(&[0x41, 1, 0x41, 0, 0x6d, 0x1a])),
        ("recursion as it starts", started(&[0x10, 0])),
        ("a table of a million", sized(TABLE, &[1, 0x70, 0], 1_000_000)),
        ("a memory of 1 GiB", sized(MEMORY, &[1, 0], 16_384)),
        ("data outside the memory", outside),
    ];
    parts.into_iter().map(|(what, part)| (what, with_part(whole, &part))).collect()
}

/// Parts that take long to compile, and whether they are beyond what a rule may be made of.
pub(super) fn bombs() -> Vec<(&'static str, Vec<u8>, bool)> {
    let of = |all: &[Vec<u8>]| {
        let mut functions = Vec::new();
        all.len().encode(&mut functions);
        functions.resize(functions.len() + all.len(), 0);
        module(&[section(FUNCTION, &functions), section(CODE, &bodies(all))])
    };
    let deep = [[2, 0x40].repeat(20_000), vec![END; 20_000]].concat();
    let table = {
        // A block that is left by a table of 3,000 ways.
        let mut table = vec![2, 0x40, 0x20, 0, 0x0e];
        3_000_u32.encode(&mut table);
        table.resize(table.len() + 3_001, 0);
        table.push(END);
        table
    };
    let tables = |count: usize| body_with(&[1, 1, 0x7f], &table.repeat(count));
    let pairs = |count: usize| body(&[0x41, 0, 0x1a].repeat(count));
    vec![
        ("50,000 functions", of(&vec![body(&[]); 50_000]), true),
        ("one body of 200,000 instructions", of(&[pairs(100_000)]), true),
        ("300 tables of 3,000 ways in one body", of(&[tables(300)]), true),
        ("20,000 blocks in each other", of(&[body(&deep)]), false),
        ("300 tables of 3,000 ways in 15 bodies", of(&vec![tables(20); 15]), false),
        ("4,000 bodies of 1,000 instructions", of(&vec![pairs(500); 4_000]), false),
    ]
}

/// The rule with one more core module, which nothing starts.
pub(super) fn with_module(whole: &[u8], part: &[u8]) -> Vec<u8> {
    [whole, &section(CORE_MODULE, part)].concat()
}

/// The same, and it is started.
fn with_part(whole: &[u8], part: &[u8]) -> Vec<u8> {
    let mut instance = vec![1, 0];
    core_modules(whole).encode(&mut instance);
    instance.push(0);
    [with_module(whole, part), section(2, &instance)].concat()
}

/// A change somewhere: bytes turned, left out, added or repeated.
pub(super) fn mutated(whole: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut changed = whole.to_vec();
    let from = random.random_range(0..whole.len().max(1));
    let to = whole.len().min(from + random.random_range(1..CHANGED_MAX));
    match random.random_range(0..5) {
        0 | 1 => {
            for _ in 0..random.random_range(1..9) {
                let at = random.random_range(0..whole.len().max(1));
                if let Some(byte) = changed.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
        }
        2 => drop(changed.drain(from..to)),
        3 => {
            let added: Vec<u8> = (from..to).map(|_| random.random()).collect();
            drop(changed.splice(from..from, added));
        }
        _ => {
            let again = whole.get(from..to).unwrap_or_default().to_vec();
            drop(changed.splice(from..from, again));
        }
    }
    changed
}

/// A part of it, cut off at a place.
pub(super) fn truncated(whole: &[u8], random: &mut StdRng) -> Vec<u8> {
    let at = random.random_range(1..whole.len().max(2));
    whole.get(..at).unwrap_or_default().to_vec()
}

/// Core modules of a component: its sections are walked.
fn core_modules(component: &[u8]) -> usize {
    let mut rest = component.get(COMPONENT.len()..).unwrap_or_default();
    let mut count = 0;
    while let Some((id, after)) = rest.split_first() {
        count += usize::from(*id == CORE_MODULE);
        let digits = after.iter().take_while(|byte| **byte >= 0x80).count() + 1;
        let size = after.iter().take(digits).rev();
        let size = size.fold(0_usize, |size, byte| (size << 7) | usize::from(byte & 0x7f));
        rest = after.get(digits.saturating_add(size)..).unwrap_or_default();
    }
    count
}

fn module(parts: &[Vec<u8>]) -> Vec<u8> {
    [CORE, &section(TYPE, PLAIN_TYPE), &parts.concat()].concat()
}

fn body(code: &[u8]) -> Vec<u8> {
    body_with(&[0], code)
}

fn body_with(locals: &[u8], code: &[u8]) -> Vec<u8> {
    [locals, code, &[END]].concat()
}

fn bodies(all: &[Vec<u8>]) -> Vec<u8> {
    let mut content = Vec::new();
    all.len().encode(&mut content);
    for body in all {
        body.len().encode(&mut content);
        content.extend_from_slice(body);
    }
    content
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    let mut section = vec![id];
    content.len().encode(&mut section);
    section.extend_from_slice(content);
    section
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_part_becomes_the_next_core_module_and_is_started() {
        let none = COMPONENT.to_vec();
        assert_eq!(core_modules(&none), 0);
        let long = [CORE, &[0; 300]].concat();
        let two = with_module(&with_module(&none, CORE), &long);
        assert_eq!(core_modules(&two), 2);
        assert!(with_part(&two, CORE).ends_with(&[2, 4, 1, 0, 2, 0]), "the third is started");
    }

    #[test]
    fn every_bomb_has_the_size_it_is_named_for() {
        let bombs = bombs();
        let bytes = |what: &str| {
            let found = bombs.iter().find(|(name, _, _)| name.starts_with(what));
            found.map(|(_, bytes, _)| bytes.len()).expect("there is one")
        };
        assert!(bytes("50,000") > 50_000 * 3);
        assert!(bytes("one body") > 300_000);
        assert!(bytes("300 tables of 3,000 ways in 15") > 300 * 3_000);
    }

    #[test]
    fn a_mutation_is_another_component_and_the_same_for_the_same_seed() {
        let whole: Vec<u8> = (0..=255).cycle().take(4_000).collect();
        let draw = |seed| {
            let mut random = StdRng::seed_from_u64(seed);
            (0..200).map(|_| mutated(&whole, &mut random)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert!(draw(7) != draw(8));
        let changed = draw(7).iter().filter(|one| **one != whole).count();
        assert!(changed > 190, "{changed} of 200");
    }
}
