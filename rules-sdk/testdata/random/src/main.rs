//! Writes random WebAssembly to standard output, the same for the same seed: `random-wasm SEED COUNT
//! [SHAPE]`.
//!
//! Modules and components by turns; or, where `SHAPE` names a core module, modules with its imports
//! and exports and other code. Each is preceded by its length in four bytes, the lowest first.

use arbitrary::Unstructured;
use std::error::Error;
use std::io::{BufWriter, Write};
use wasm_smith::{Component, Config, Module};

const SEED_BYTES: usize = 4 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [seed, count, shape @ ..] = args.as_slice() else {
        return Err("say a seed and a count".into());
    };
    // The state may not be 0.
    let mut state = seed.parse::<u64>()? | 1;
    let shape = shape.first().map(std::fs::read).transpose()?;
    let config = config(shape);
    let mut out = BufWriter::new(std::io::stdout().lock());
    for number in 0..count.parse::<u64>()? {
        let bytes = roll(&mut state);
        let mut bytes = Unstructured::new(&bytes);
        let wasm = if config.module_shape.is_none() && number % 2 == 1 {
            Component::new(config.clone(), &mut bytes)?.to_bytes()
        } else {
            Module::new(config.clone(), &mut bytes)?.to_bytes()
        };
        out.write_all(&u32::try_from(wasm.len())?.to_le_bytes())?;
        out.write_all(&wasm)?;
    }
    Ok(out.flush()?)
}

/// What has a shape is to be accepted now and then, so it has no features that are off anyway.
fn config(shape: Option<Vec<u8>>) -> Config {
    if shape.is_none() {
        return Config::default();
    }
    Config {
        module_shape: shape,
        compact_imports_enabled: false,
        exceptions_enabled: false,
        gc_enabled: false,
        memory64_enabled: false,
        reference_types_enabled: false,
        relaxed_simd_enabled: false,
        simd_enabled: false,
        tail_call_enabled: false,
        threads_enabled: false,
        wide_arithmetic_enabled: false,
        max_memories: 1,
        max_tables: 2,
        ..Config::default()
    }
}

fn roll(state: &mut u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SEED_BYTES);
    while bytes.len() < SEED_BYTES {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}
