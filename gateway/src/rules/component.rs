//! Looks at a component before it is compiled, and makes a component of a core module and a manifest.

use crate::rules::error::RuleError;
use crate::rules::hooks::Hook;
use crate::rules::limits::Shape;
use crate::rules::manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError, SECTION};
use sha2::{Digest, Sha256};
use wasm_encoder::{ComponentSection, CustomSection};
use wasmparser::{CanonicalFunction, CanonicalOption, Encoding, Parser, Payload};
use wit_component::ComponentEncoder;

const IMPORTS: [&str; 6] = [
    "bugler:rules/types@0.1.",
    "bugler:rules/log@0.1.",
    "bugler:rules/clock@0.1.",
    "bugler:rules/counters@0.1.",
    "bugler:rules/kv@0.1.",
    "bugler:rules/config@0.1.",
];

/// What a usable component is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct ComponentSummary {
    /// Lower-case hex SHA-256 of the file: the rule's identity.
    pub digest: String,
    pub bytes: usize,
    /// Functions of all its core modules.
    pub functions: usize,
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    pub hooks: Vec<Hook>,
    /// The `rule.toml` it was wrapped with.
    pub manifest: Option<Manifest>,
}

impl ComponentSummary {
    /// True if it can be asked about a batch of `hook` as one run of bytes.
    pub(super) fn packs(&self, hook: Hook) -> bool {
        self.exports.iter().any(|name| name.starts_with(hook.packed_export()))
    }
}

/// Reads the outline of a component of at most `bytes_max` bytes; compiles nothing.
///
/// # Errors
/// It is no component, too big, or asks for what a rule cannot have.
pub fn inspect(component: &[u8], bytes_max: usize) -> Result<ComponentSummary, RuleError> {
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
    let mut outline = Outline::of(Shape::of(bytes_max));
    for payload in Parser::new(0).parse_all(component) {
        outline.read(payload.map_err(malformed)?)?;
    }
    let exports = |hook: &Hook| outline.exports.iter().any(|n| n.starts_with(hook.export()));
    let hooks: Vec<_> = Hook::ALL.into_iter().filter(exports).collect();
    if hooks.is_empty() {
        return Err(RuleError::NoHook);
    }
    let manifest = outline.manifest.as_deref().map(Manifest::parse).transpose()?;
    if let Some(manifest) = &manifest {
        check_hooks(manifest, &hooks)?;
    }
    Ok(ComponentSummary {
        digest: Sha256::digest(component).iter().map(|byte| format!("{byte:02x}")).collect(),
        bytes: component.len(),
        functions: outline.functions,
        imports: outline.imports,
        exports: outline.exports,
        hooks,
        manifest,
    })
}

/// What a manifest says of hooks is what the component has.
fn check_hooks(manifest: &Manifest, has: &[Hook]) -> Result<(), RuleError> {
    let mut said = manifest.hooks.clone();
    said.sort_unstable();
    if said.is_empty() || said == has {
        return Ok(());
    }
    let names =
        |hooks: &[Hook]| hooks.iter().map(|hook| hook.as_str()).collect::<Vec<_>>().join(", ");
    Err(RuleError::OtherHooks { said: names(&said), has: names(has) })
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

/// `component` with the text of its `rule.toml` inside, in a custom section.
///
/// # Errors
/// The manifest is refused, or does not fit the component, or there is one already.
pub fn embed_manifest(component: &[u8], manifest: &str) -> Result<Vec<u8>, RuleError> {
    Manifest::parse(manifest)?;
    let whole = with_section(component.to_vec(), SECTION, manifest.as_bytes());
    inspect(&whole, usize::MAX)?;
    Ok(whole)
}

/// `component` with one more custom section at its end.
#[must_use]
pub fn with_section(mut component: Vec<u8>, name: &str, content: &[u8]) -> Vec<u8> {
    CustomSection { name: name.into(), data: content.into() }.append_to_component(&mut component);
    component
}

struct Outline {
    shape: Shape,
    /// Modules and components around what is being read; the outermost component is 1.
    depth: usize,
    functions: usize,
    imports: Vec<String>,
    exports: Vec<String>,
    manifest: Option<String>,
}

impl Outline {
    fn of(shape: Shape) -> Self {
        let (imports, exports) = (Vec::new(), Vec::new());
        Self { shape, depth: 0, functions: 0, imports, exports, manifest: None }
    }

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
                if self.functions > self.shape.functions {
                    let most = self.shape.functions;
                    return Err(RuleError::TooManyFunctions { most });
                }
            }
            Payload::CodeSectionEntry(body) => {
                let bytes = body.as_bytes().len();
                let most = self.shape.body_bytes;
                if bytes > most {
                    return Err(RuleError::FunctionTooLarge { bytes, most });
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
            Payload::CustomSection(section) if self.depth == 1 && section.name() == SECTION => {
                self.manifest(section.data())?;
            }
            _ => {}
        }
        Ok(())
    }

    fn manifest(&mut self, text: &[u8]) -> Result<(), RuleError> {
        if text.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLong.into());
        }
        let text = std::str::from_utf8(text).map_err(|_| RuleError::ManifestEncoding)?;
        match self.manifest.replace(text.to_owned()) {
            None => Ok(()),
            Some(_) => Err(RuleError::TwoManifests),
        }
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

/// The manifest in a component, if it has one that can be read.
#[must_use]
pub fn manifest_of(component: &[u8]) -> Option<Manifest> {
    inspect(component, usize::MAX).ok()?.manifest
}
