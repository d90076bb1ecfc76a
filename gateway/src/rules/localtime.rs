//! Wall clocks for rules: one bundled time zone database, so every node gives the same answer.

use crate::model::Millis;
use crate::rules::abi::clock::{LocalTime, TzError};
use jiff::civil::{DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan};

/// Longest IANA name is 32 bytes today.
const ZONE_NAME_BYTES_MAX: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct Zones(TimeZoneDatabase);

impl Zones {
    pub(super) fn bundled() -> Self {
        Self(TimeZoneDatabase::bundled())
    }

    /// What clocks in `tz` read at `at`.
    pub(super) fn local(&self, at: Millis, tz: &str) -> Result<LocalTime, TzError> {
        let (zone, at) = (self.zone(tz)?, timestamp(at)?);
        let reading = zone.to_datetime(at);
        let weekday = reading.date().weekday().to_monday_one_offset();
        Ok(LocalTime {
            year: i32::from(reading.year()),
            month: small(reading.month())?,
            day: small(reading.day())?,
            weekday: small(weekday)?,
            hour: small(reading.hour())?,
            minute: small(reading.minute())?,
            second: small(reading.second())?,
            utc_offset_seconds: zone.to_offset(at).seconds(),
        })
    }

    /// First instant after `after` at which clocks in `tz` read `hour`:`minute`.
    pub(super) fn next_local(
        &self,
        after: Millis,
        tz: &str,
        hour: u8,
        minute: u8,
    ) -> Result<Millis, TzError> {
        let (zone, after) = (self.zone(tz)?, timestamp(after)?);
        let number = |part: u8| i8::try_from(part).map_err(|_| TzError::OutOfRange);
        let wanted = Time::new(number(hour)?, number(minute)?, 0, 0).map_err(out_of_range)?;
        let today = zone.to_datetime(after).date();
        // Today's reading may be over, and a zone may skip a whole day (Samoa, 30 December 2011).
        for days in 0..=2 {
            let date = today.checked_add(days.days()).map_err(out_of_range)?;
            let at = first_instant(&zone, date.to_datetime(wanted))?;
            if at > after {
                let ms = u64::try_from(at.as_millisecond()).map_err(|_| TzError::OutOfRange)?;
                return Ok(Millis(ms));
            }
        }
        Err(TzError::OutOfRange)
    }

    fn zone(&self, name: &str) -> Result<TimeZone, TzError> {
        if name.len() > ZONE_NAME_BYTES_MAX {
            return Err(TzError::UnknownZone);
        }
        self.0.get(name).map_err(|_| TzError::UnknownZone)
    }
}

/// The first instant at which clocks show `reading`, or the end of the jump that leaves it out.
fn first_instant(zone: &TimeZone, reading: DateTime) -> Result<Timestamp, TzError> {
    let ambiguous = zone.to_ambiguous_timestamp(reading);
    let is_skipped = matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. });
    let earlier = ambiguous.earlier().map_err(out_of_range)?;
    if !is_skipped {
        return Ok(earlier);
    }
    let jump = zone.following(earlier).next().ok_or(TzError::OutOfRange)?;
    Ok(jump.timestamp())
}

fn timestamp(at: Millis) -> Result<Timestamp, TzError> {
    let ms = i64::try_from(at.0).map_err(|_| TzError::OutOfRange)?;
    Timestamp::from_millisecond(ms).map_err(out_of_range)
}

fn small(part: i8) -> Result<u8, TzError> {
    u8::try_from(part).map_err(|_| TzError::OutOfRange)
}

fn out_of_range(_: jiff::Error) -> TzError {
    TzError::OutOfRange
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Millis {
        let ms = text.parse::<Timestamp>().unwrap().as_millisecond();
        Millis(u64::try_from(ms).unwrap())
    }

    fn next(after: &str, tz: &str, hour: u8, minute: u8) -> Result<String, TzError> {
        Zones::bundled().next_local(at(after), tz, hour, minute).map(Millis::to_rfc3339)
    }

    #[test]
    fn reads_the_clock_of_a_zone() {
        let local = Zones::bundled().local(at("2026-03-29T01:30:00Z"), "Europe/Kyiv").unwrap();
        assert_eq!((local.hour, local.minute, local.utc_offset_seconds), (4, 30, 3 * 3600));
        assert_eq!((local.year, local.month, local.day, local.weekday), (2026, 3, 29, 7));
    }

    #[test]
    fn finds_the_morning_after_the_clocks_jumped() {
        let kyiv = next("2026-03-29T01:30:00Z", "Europe/Kyiv", 7, 0);
        assert_eq!(kyiv.unwrap(), "2026-03-29T04:00:00.000Z");
        let new_york = next("2026-03-08T06:30:00Z", "America/New_York", 7, 0);
        assert_eq!(new_york.unwrap(), "2026-03-08T11:00:00.000Z");
    }

    #[test]
    fn a_reading_inside_the_gap_is_the_end_of_the_gap() {
        let in_gap = next("2026-03-08T06:30:00Z", "America/New_York", 2, 30);
        assert_eq!(in_gap.unwrap(), "2026-03-08T07:00:00.000Z");
        let skipped_day = next("2011-12-30T09:00:00Z", "Pacific/Apia", 12, 0);
        assert_eq!(skipped_day.unwrap(), "2011-12-30T10:00:00.000Z");
    }

    #[test]
    fn a_reading_shown_twice_is_the_first_one() {
        let before = next("2026-11-01T04:00:00Z", "America/New_York", 1, 30);
        assert_eq!(before.unwrap(), "2026-11-01T05:30:00.000Z");
        let between = next("2026-11-01T05:45:00Z", "America/New_York", 1, 30);
        assert_eq!(between.unwrap(), "2026-11-02T06:30:00.000Z");
    }

    #[test]
    fn a_reading_at_this_very_instant_is_tomorrows() {
        let same = next("2026-06-01T07:00:00Z", "UTC", 7, 0);
        assert_eq!(same.unwrap(), "2026-06-02T07:00:00.000Z");
    }

    #[test]
    fn refuses_what_is_no_zone_and_no_time() {
        assert_eq!(next("2026-06-01T07:00:00Z", "../etc/passwd", 7, 0), Err(TzError::UnknownZone));
        assert_eq!(next("2026-06-01T07:00:00Z", &"a".repeat(500), 7, 0), Err(TzError::UnknownZone));
        assert_eq!(next("2026-06-01T07:00:00Z", "UTC", 24, 0), Err(TzError::OutOfRange));
        assert_eq!(next("2026-06-01T07:00:00Z", "UTC", 255, 0), Err(TzError::OutOfRange));
        let never = Zones::bundled().next_local(Millis(u64::MAX), "UTC", 7, 0);
        assert_eq!(never, Err(TzError::OutOfRange));
    }
}
