// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A recording is played: what happened then happens again, as far apart in time.
//!
//! Frames are due at times from the start on, so that one that came late does not delay those that follow. While the
//! guest takes nothing they wait; afterwards they come as fast as it takes them, until they have caught up.

use std::str::FromStr;
use std::time::{Duration, Instant};

use super::{Desk, Inner, signal};
use crate::request::Event;

/// The speeds that there are, in thousandths.
const SPEEDS: std::ops::RangeInclusive<u32> = 10..=1_000_000;
/// Least time from the end of a recording that is played over and over to its next start.
const REST: Duration = Duration::from_millis(100);

/// How a recording is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How fast, in thousandths.
    speed: u32,
    /// Over and over.
    pub(super) repeats: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            speed: 1000,
            repeats: false,
        }
    }
}

impl Pace {
    /// Takes in one option: `loop` or `speed=2.5`. False if it is neither.
    ///
    /// # Errors
    /// A speed that there is not.
    pub fn set(&mut self, option: &str) -> Result<bool, String> {
        if option == "loop" {
            self.repeats = true;
            return Ok(true);
        }
        let Some(text) = option.strip_prefix("speed=") else {
            return Ok(false);
        };
        let thousandths = f64::from_str(text).map(|speed| (speed * 1000.0).round() as u32);
        let speed = thousandths.ok().filter(|speed| SPEEDS.contains(speed));
        self.speed = speed.ok_or_else(|| format!("{text} is not a speed from 0.01 to 1000"))?;
        Ok(true)
    }

    /// How long what took `time` takes.
    fn scaled(self, time: Duration) -> Duration {
        let nanos = time.as_nanos().saturating_mul(1000) / u128::from(self.speed);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// What is being played.
pub(super) struct Playing {
    pace: Pace,
    /// When the first frame was due; `None` while a guest is waited for.
    begun: Option<Instant>,
    /// Number of the next frame.
    next: usize,
}

impl Playing {
    /// From the moment on at which a guest is there.
    pub(super) fn for_guest(pace: Pace) -> Self {
        Self {
            pace,
            begun: None,
            next: 0,
        }
    }
}

impl Desk {
    /// Begins to play the recording.
    pub(super) fn replay(&self, pace: Pace) -> Result<(), String> {
        let mut inner = self.lock();
        if self.frames.is_empty() {
            return Err("this device has no recorded events".into());
        }
        if inner.playing.is_some() {
            return Err("the recording is being played already; `stop` ends that".into());
        }
        let begun = Some(Instant::now());
        inner.playing = Some(Playing {
            begun,
            ..Playing::for_guest(pace)
        });
        Ok(())
    }

    /// Ends it where it is, and lifts what it held.
    pub(super) fn stop(&self) {
        let mut inner = self.lock();
        if inner.playing.take().is_some() {
            inner.lift();
            signal(&self.event);
        }
    }

    /// Whether the recording is being played.
    pub(super) fn is_playing(&self) -> bool {
        self.lock().playing.is_some()
    }

    /// When the next frame is due; `None` if nothing is played, or not now.
    pub(super) fn due(&self) -> Option<Instant> {
        let inner = self.lock();
        let playing = inner.playing.as_ref().filter(|_| !inner.is_full())?;
        match playing.begun {
            None => inner.attached.then(Instant::now),
            Some(begun) => begun.checked_add(self.offset(playing)),
        }
    }

    /// How long after the first frame the next one is due, or the end.
    fn offset(&self, playing: &Playing) -> Duration {
        match self.frames.get(playing.next).or(self.frames.last()) {
            Some((time, _)) => playing.pace.scaled(*time),
            None => Duration::ZERO,
        }
    }

    /// Has all frames happen that are due.
    pub(super) fn play_due(&self) {
        while let Some(due) = self.due()
            && due <= Instant::now()
        {
            let mut inner = self.lock();
            let Some(mut playing) = inner.playing.take() else {
                break;
            };
            playing.begun.get_or_insert(due);
            if let Some((_, frame)) = self.frames.get(playing.next) {
                inner.play(frame.clone());
                playing.next += 1;
                inner.playing = Some(playing);
            } else {
                inner.lift();
                if playing.pace.repeats && !self.frames.is_empty() {
                    // Without a guest it waits for the next one.
                    playing.begun = due.checked_add(REST).filter(|_| inner.attached);
                    playing.next = 0;
                    inner.playing = Some(playing);
                }
            }
            signal(&self.event);
        }
    }
}

impl Inner {
    /// Lifts all that is held.
    fn lift(&mut self) {
        let frame: Vec<Event> = self.state.release();
        if !frame.is_empty() {
            self.play(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Pace;

    fn pace(options: &[&str]) -> Pace {
        let mut pace = Pace::default();
        for option in options {
            assert_eq!(pace.set(option), Ok(true), "{option}");
        }
        pace
    }

    #[test]
    fn speed_divides_time() {
        let second = Duration::from_secs(1);
        for (option, scaled) in [
            ("speed=1", second),
            ("speed=2.5", Duration::from_millis(400)),
            ("speed=0.01", Duration::from_secs(100)),
            ("speed=1000", Duration::from_millis(1)),
        ] {
            assert_eq!(pace(&[option]).scaled(second), scaled, "{option}");
        }
        assert_eq!(
            pace(&["speed=0.01"]).scaled(Duration::MAX),
            Duration::from_nanos(u64::MAX)
        );
        assert!(pace(&["loop", "speed=2"]).repeats);
    }

    #[test]
    fn what_is_no_pace_is_told_apart_from_a_bad_one() {
        let mut pace = Pace::default();
        assert_eq!(pace.set("fast"), Ok(false));
        for text in ["0", "-1", "NaN", "inf", "1001", "0.001", "x", ""] {
            let error = pace.set(&format!("speed={text}")).unwrap_err();
            assert_eq!(error, format!("{text} is not a speed from 0.01 to 1000"));
        }
    }
}
