//! How much of the traffic a version judges, and how that is written.

use crate::rules::deployed::SetError;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// All of it, in hundredths of a percent.
const WHOLE: u16 = 10_000;

/// How much of the traffic a version judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Copies, after the real decision; hundredths of a percent.
    Shadow(u16),
    /// Really, for that share of organizations or recipients; hundredths of a percent.
    Canary(u16),
    Active,
}

impl Stage {
    /// `active`, `canary` or `shadow`: the word of decision records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shadow(_) => "shadow",
            Self::Canary(_) => "canary",
            Self::Active => "active",
        }
    }
}

impl FromStr for Stage {
    type Err = SetError;

    fn from_str(text: &str) -> Result<Self, SetError> {
        let (word, share) = text.split_once(':').map_or((text, None), |(w, s)| (w, Some(s)));
        let share = share.map(share_of).transpose()?;
        match (word, share) {
            ("active", None) => Ok(Self::Active),
            ("shadow", share) => Ok(Self::Shadow(share.unwrap_or(WHOLE))),
            ("canary", Some(share)) => Ok(Self::Canary(share)),
            _ => Err(SetError::Stage),
        }
    }
}

/// `5%` or `0.25%` in hundredths of a percent.
pub(super) fn share_of(text: &str) -> Result<u16, SetError> {
    let number = text.strip_suffix('%').ok_or(SetError::Stage)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || part.len() > 2 || !is_digits(whole) || !is_digits(part) {
        return Err(SetError::Stage);
    }
    let whole: u16 = whole.parse().map_err(|_| SetError::Stage)?;
    let part: u16 = format!("{part:0<2}").parse().map_err(|_| SetError::Stage)?;
    let share = whole.checked_mul(100).and_then(|whole| whole.checked_add(part));
    share.filter(|share| (1..=WHOLE).contains(share)).ok_or(SetError::Stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_read_with_their_share() {
        assert_eq!("active".parse(), Ok(Stage::Active));
        assert_eq!("shadow".parse(), Ok(Stage::Shadow(10_000)));
        assert_eq!("canary:5%".parse(), Ok(Stage::Canary(500)));
        assert_eq!("canary:0.25%".parse(), Ok(Stage::Canary(25)));
        for bad in ["canary", "canary:0%", "canary:101%", "canary:5", "active:1%", "", "canary:-1%"]
        {
            assert_eq!(bad.parse::<Stage>(), Err(SetError::Stage), "{bad}");
        }
    }
}
