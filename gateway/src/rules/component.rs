//! Looks at a component before it is compiled, and makes a component of a core module.

use crate::rules::error::RuleError;
use crate::rules::limits::{BODY_BYTES_MAX, FUNCTIONS_MAX};
use sha2::{Digest, Sha256};
use wasmparser::{CanonicalFunction, CanonicalOption, Encoding, Parser, Payload};
use wit_component::ComponentEncoder;

const IMPORTS: [&str; 4] = [
    "bugler:rules/types@0.1.",
    "bugler:rules/log@0.1.",
    "bugler:rules/clock@0.1.",
    "bugler:rules/config@0.1.",
];
const ROUTER: &str = "bugler:rules/router@0.1.";

/// What a usable component is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentSummary {
    /// Lower-case hex SHA-256 of the file: the rule's identity.
    pub digest: String,
    pub bytes: usize,
    /// Functions of all its core modules.
    pub functions: usize,
    pub imports: Vec<String>,
    pub exports: Vec<String>,
}

/// Reads the outline of a component of at most `bytes_max` bytes; compiles nothing.
///
/// # Errors
/// It is no component, too big, or asks for what a rule cannot have.
pub(super) fn inspect(component: &[u8], bytes_max: usize) -> Result<ComponentSummary, RuleError> {
    if component.len() > bytes_max {
        return Err(RuleError::TooLarge { limit: bytes_max });
    }
    if !Parser::is_component(component) {
        return Err(if Parser::is_core_wasm(component) {
            RuleError::CoreModule
        } else {
            RuleError::NotWasm
        });
    }
    let mut outline = Outline::default();
    for payload in Parser::new(0).parse_all(component) {
        outline.read(payload.map_err(malformed)?)?;
    }
    if !outline.exports.iter().any(|name| name.starts_with(ROUTER)) {
        return Err(RuleError::NoRouter);
    }
    Ok(ComponentSummary {
        digest: Sha256::digest(component).iter().map(|byte| format!("{byte:02x}")).collect(),
        bytes: component.len(),
        functions: outline.functions,
        imports: outline.imports,
        exports: outline.exports,
    })
}

/// Makes a component of a core module built with `bugler-rules-sdk` for `wasm32-unknown-unknown`.
///
/// # Errors
/// It is no core module, or the component made of it would not be accepted as a rule.
pub fn wrap_component(core: &[u8]) -> Result<Vec<u8>, RuleError> {
    if Parser::is_component(core) {
        return Err(RuleError::NotCoreModule);
    }
    if !Parser::is_core_wasm(core) {
        return Err(RuleError::NotWasm);
    }
    let wrap = || ComponentEncoder::default().validate(true).module(core)?.encode();
    let component = wrap().map_err(|error| RuleError::Wrap(error.into()))?;
    inspect(&component, usize::MAX)?;
    Ok(component)
}

#[derive(Default)]
struct Outline {
    /// Modules and components around what is being read; the outermost component is 1.
    depth: usize,
    functions: usize,
    imports: Vec<String>,
    exports: Vec<String>,
}

impl Outline {
    fn read(&mut self, payload: Payload<'_>) -> Result<(), RuleError> {
        match payload {
            Payload::Version { encoding, .. } => {
                self.depth += 1;
                if self.depth == 1 && encoding != Encoding::Component {
                    return Err(RuleError::CoreModule);
                }
            }
            Payload::End(_) => self.depth = self.depth.saturating_sub(1),
            Payload::CodeSectionStart { count, .. } => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                self.functions = self.functions.saturating_add(count);
                if self.functions > FUNCTIONS_MAX {
                    return Err(RuleError::TooManyFunctions);
                }
            }
            Payload::CodeSectionEntry(body) => {
                let bytes = body.as_bytes().len();
                if bytes > BODY_BYTES_MAX {
                    return Err(RuleError::FunctionTooLarge { bytes });
                }
            }
            Payload::ComponentCanonicalSection(functions) => {
                for function in functions {
                    check_strings(&function.map_err(malformed)?)?;
                }
            }
            Payload::ComponentImportSection(imports) if self.depth == 1 => {
                for import in imports {
                    self.import(import.map_err(malformed)?.name.name)?;
                }
            }
            Payload::ComponentExportSection(exports) if self.depth == 1 => {
                for export in exports {
                    self.exports.push(export.map_err(malformed)?.name.name.to_owned());
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn import(&mut self, name: &str) -> Result<(), RuleError> {
        if !IMPORTS.iter().any(|known| name.starts_with(known)) {
            return Err(RuleError::ForeignImport { name: name.chars().take(128).collect() });
        }
        self.imports.push(name.to_owned());
        Ok(())
    }
}

/// Transcoding is where component hosts had most of their security bugs, and no rule needs it.
fn check_strings(function: &CanonicalFunction) -> Result<(), RuleError> {
    let options = match function {
        CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => {
            options
        }
        _ => return Ok(()),
    };
    let is_utf16 =
        |option| matches!(option, &CanonicalOption::UTF16 | &CanonicalOption::CompactUTF16);
    if options.iter().any(is_utf16) { Err(RuleError::StringEncoding) } else { Ok(()) }
}

fn malformed(error: wasmparser::BinaryReaderError) -> RuleError {
    RuleError::Malformed(error.into())
}
