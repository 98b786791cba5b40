// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The commands by which a script uses a simulated device. Each is a line.
//!
//! | command | what happens |
//! |---|---|
//! | `key A`, `key LEFTCTRL+C` | the keys go down in this order, and up again |
//! | `down A`, `up A` | a key goes down, and stays so; it goes up |
//! | `button left` | `key BTN_LEFT` |
//! | `type "hello\n"` | the keys of a US keyboard that type this; the text is a JSON string, or goes to the end of the line |
//! | `move DX DY` | a mouse moves |
//! | `wheel N`, `wheel N M` | N notches of the wheel, away from the user; M of the other wheel, to the right |
//! | `abs X Y` | a pointer is there |
//! | `axis RX 100`, `axis RX 100 RY -5` | axes are there, at once |
//! | `touch SLOT X Y` | a finger is there; further ones may follow: all at once |
//! | `lift SLOT` | a finger is lifted; further ones may follow |
//! | `frame TYPE CODE VALUE ...` | any events, at once |
//! | `{"type":1,"code":30,"value":1}` | an event; those until `{"type":0,"code":0,"value":0}` happen at once |
//! | `sleep 20ms` | nothing, for so long; also `2s` |
//! | `wait` | nothing, until a driver is there |
//! | `replay`, `replay speed=2` | a recording is played from its start; the answer comes at its end |
//! | `replay loop` | it is played over and over; the answer comes at once |
//! | `stop` | it is not played any more |
//! | `leds` | the answer is `LED_NUML 1`, a line for each that the guest has told of; then `ok` |
//! | `watch` | from now on, `LED_NUML 1`, `SND_TONE 440` or `guest 0` are told as they come |
//!
//! The answer is `ok` when it has happened, or `error: ...`. Empty lines and those that begin with `#` have none.

use std::time::Duration;

use super::kind::SLOTS;
use super::{Desk, Inner, Pace, signal};
use crate::backend::names;
use crate::config::Description;
use crate::request::Event;
use crate::spec::{
    ABS_MT_POSITION_X, ABS_MT_POSITION_Y, ABS_MT_SLOT, ABS_MT_TRACKING_ID, ABS_X, ABS_Y, BTN_TOUCH, EV_ABS,
    EV_KEY, EV_LED, EV_REL, EV_SYN, REL_HWHEEL, REL_HWHEEL_HI_RES, REL_WHEEL, REL_WHEEL_HI_RES, REL_X, REL_Y,
};

const KNOWN: &str = "commands are: key, down, up, button, type, move, wheel, abs, axis, touch, lift, frame, sleep, \
                     wait, replay, stop, leds, watch, and events as JSON";
/// Longest sleep.
const MAX_SLEEP: Duration = Duration::from_secs(3600);
/// Events of a frame that is made of JSON.
const MAX_FRAME: usize = 1024;
/// High-resolution units of a notch.
const NOTCH: i32 = 120;

/// What becomes of a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: there is none in the line.
    Nothing,
    /// To be answered so.
    Answer(String),
    /// To be answered after this.
    Sleep(Duration),
    /// To be answered when a driver is there.
    Guest,
    /// To be answered when the recording was played.
    Replay,
    /// Whoever sent it wants news.
    Watch,
}

type Frames = Vec<Vec<Event>>;

impl Desk {
    /// Carries out one command. `pending` is the frame that the sender has begun as JSON.
    pub fn command(&self, line: &str, pending: &mut Vec<Event>) -> Outcome {
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        let result = match (word, &words[..]) {
            ("", _) => return Outcome::Nothing,
            (comment, _) if comment.starts_with('#') => return Outcome::Nothing,
            ("wait", []) => return Outcome::Guest,
            ("watch", []) => return Outcome::Watch,
            ("sleep", [time]) => match duration(time) {
                Some(time) => return Outcome::Sleep(time),
                None => Err(format!("{time} is not a time of at most an hour, as 20ms or 2s")),
            },
            ("replay", options) => match self.begin(options) {
                Ok(pace) if pace.repeats => Ok("ok".into()),
                Ok(_) => return Outcome::Replay,
                Err(what) => Err(what),
            },
            ("stop", []) => {
                self.stop();
                Ok("ok".into())
            }
            ("leds", []) => Ok(self.leds()),
            _ => self
                .play(line, word, rest.trim(), &words, pending)
                .map(|()| "ok".into()),
        };
        Outcome::Answer(result.unwrap_or_else(|what| format!("error: {what}")))
    }

    /// Begins to play the recording.
    fn begin(&self, options: &[&str]) -> Result<Pace, String> {
        let mut pace = Pace::default();
        for option in options {
            if !pace.set(option)? {
                return Err(format!("{option} is neither loop nor speed=NUMBER"));
            }
        }
        self.replay(pace).map(|()| pace)
    }

    fn leds(&self) -> String {
        let inner = self.lock();
        let leds = inner.statuses.iter().filter(|((kind, _), _)| *kind == EV_LED);
        let line = |((kind, code), value): (&(u16, u16), &i32)| {
            names::status(Event::new(*kind, *code, *value)) + "\n"
        };
        leds.map(line).collect::<String>() + "ok"
    }

    /// Has the frames of a command happen, all or none.
    fn play(
        &self,
        line: &str,
        word: &str,
        rest: &str,
        words: &[&str],
        pending: &mut Vec<Event>,
    ) -> Result<(), String> {
        let mut inner = self.lock();
        let frames = match word {
            _ if line.starts_with('{') => json(line, pending)?,
            "type" => typed(rest)?,
            "touch" => vec![touch(words, &mut inner)?],
            "lift" => vec![lift(words, &inner)?],
            _ => simple(word, words)?,
        };
        let events = frames.iter().flatten();
        events
            .clone()
            .try_for_each(|event| check(&self.description, *event))?;
        frames.into_iter().for_each(|frame| inner.play(frame));
        signal(&self.event);
        Ok(())
    }
}

/// The commands that need nothing but their words.
fn simple(word: &str, words: &[&str]) -> Result<Frames, String> {
    let number = |text: &str| text.parse::<i32>().or(Err(format!("{text} is not a number")));
    let keys = |text: &str| text.split('+').map(names::key).collect::<Result<Vec<u16>, _>>();
    let edges = |keys: &[u16], value| -> Frames {
        keys.iter()
            .map(|key| vec![Event::new(EV_KEY, *key, value)])
            .collect()
    };
    let stroke = |mut keys: Vec<u16>| {
        let mut frames = edges(&keys, 1);
        keys.reverse();
        frames.extend(edges(&keys, 0));
        frames
    };
    let frame = match (word, words) {
        ("key", [text]) => return Ok(stroke(keys(text)?)),
        ("button", [name]) => return Ok(stroke(vec![names::key(&format!("BTN_{name}"))?])),
        ("down", [text]) => return Ok(edges(&keys(text)?, 1)),
        ("up", [text]) => return Ok(edges(&keys(text)?, 0)),
        ("move", [x, y]) => vec![
            Event::new(EV_REL, REL_X, number(x)?),
            Event::new(EV_REL, REL_Y, number(y)?),
        ],
        ("wheel", [n]) => notches(number(n)?, REL_WHEEL, REL_WHEEL_HI_RES),
        ("wheel", [n, m]) => {
            let mut frame = notches(number(n)?, REL_WHEEL, REL_WHEEL_HI_RES);
            frame.extend(notches(number(m)?, REL_HWHEEL, REL_HWHEEL_HI_RES));
            frame
        }
        ("abs", [x, y]) => vec![
            Event::new(EV_ABS, ABS_X, number(x)?),
            Event::new(EV_ABS, ABS_Y, number(y)?),
        ],
        ("axis", [_, _, ..]) if words.len().is_multiple_of(2) => {
            let axis = |pair: &[&str]| Ok(Event::new(EV_ABS, names::axis(pair[0])?, number(pair[1])?));
            words.chunks_exact(2).map(axis).collect::<Result<_, String>>()?
        }
        ("frame", [_, _, _, ..]) if words.len().is_multiple_of(3) => {
            let code = |text: &str| text.parse::<u16>().or(Err(format!("{text} is not a code")));
            let event = |it: &[&str]| Ok(Event::new(code(it[0])?, code(it[1])?, number(it[2])?));
            words.chunks_exact(3).map(event).collect::<Result<_, String>>()?
        }
        _ => return Err(KNOWN.into()),
    };
    Ok(vec![frame])
}

fn notches(count: i32, code: u16, fine: u16) -> Vec<Event> {
    vec![
        Event::new(EV_REL, code, count),
        Event::new(EV_REL, fine, count.saturating_mul(NOTCH)),
    ]
}

/// The strokes that type a text.
fn typed(text: &str) -> Result<Frames, String> {
    let text = if text.starts_with('"') {
        serde_json::from_str(text).or(Err(format!("{text} is not a string of JSON")))?
    } else {
        text.to_owned()
    };
    let shift = names::key("LEFTSHIFT")?;
    let mut frames = Vec::new();
    for character in text.chars() {
        let key = names::typed(character).ok_or(format!("no key types {character:?}"))?;
        let keys = if key.1 { vec![shift, key.0] } else { vec![key.0] };
        frames.extend(keys.iter().map(|key| vec![Event::new(EV_KEY, *key, 1)]));
        frames.extend(keys.iter().rev().map(|key| vec![Event::new(EV_KEY, *key, 0)]));
    }
    Ok(frames)
}

fn slot(text: &str) -> Result<i32, String> {
    let slot = text.parse().ok().filter(|slot| (0..SLOTS).contains(slot));
    slot.ok_or(format!("{text} is not a slot from 0 to {}", SLOTS - 1))
}

/// Fingers are set down or moved.
fn touch(words: &[&str], inner: &mut Inner) -> Result<Vec<Event>, String> {
    let abs = |code, value| Event::new(EV_ABS, code, value);
    let first = inner.state.touched().next().is_none();
    let (mut after, mut frame, mut places) = (inner.state.clone(), Vec::new(), Vec::new());
    for triple in words.chunks(3) {
        let [at, x, y] = triple else {
            return Err("a touch is SLOT X Y".into());
        };
        let (at, place) = (slot(at)?, [x, y].map(|text| text.parse()));
        let [Ok(x), Ok(y)] = place else {
            return Err(format!("{x} {y} is not a place"));
        };
        let mut events = vec![abs(ABS_MT_SLOT, at)];
        if !after.touches(at) {
            inner.contact = (inner.contact + 1) & 0xffff;
            events.push(abs(ABS_MT_TRACKING_ID, inner.contact));
        }
        events.extend([abs(ABS_MT_POSITION_X, x), abs(ABS_MT_POSITION_Y, y)]);
        events.iter().for_each(|event| after.apply(*event));
        frame.append(&mut events);
        places.push((at, x, y));
    }
    frame.extend((first && !frame.is_empty()).then_some(Event::new(EV_KEY, BTN_TOUCH, 1)));
    // Who knows of one finger only follows that in the first slot.
    let leading = after.touched().next();
    if let Some((_, x, y)) = places.iter().find(|(at, ..)| Some(*at) == leading) {
        frame.extend([abs(ABS_X, *x), abs(ABS_Y, *y)]);
    }
    Ok(frame)
}

/// Fingers are lifted.
fn lift(words: &[&str], inner: &Inner) -> Result<Vec<Event>, String> {
    let mut after = inner.state.clone();
    let mut frame = Vec::new();
    for word in words {
        let slot = slot(word)?;
        if !after.touches(slot) {
            return Err(format!("there is no finger in slot {slot}"));
        }
        let lifted = [(ABS_MT_SLOT, slot), (ABS_MT_TRACKING_ID, -1)];
        for event in lifted.map(|(code, value)| Event::new(EV_ABS, code, value)) {
            after.apply(event);
            frame.push(event);
        }
    }
    let last = after.touched().next().is_none() && !frame.is_empty();
    frame.extend(last.then_some(Event::new(EV_KEY, BTN_TOUCH, 0)));
    Ok(frame)
}

/// One event as JSON: the frame, if it ends with this.
fn json(line: &str, pending: &mut Vec<Event>) -> Result<Frames, String> {
    let value: serde_json::Value = serde_json::from_str(line).or(Err("not an object of JSON"))?;
    let field = |name: &str| value.get(name).and_then(serde_json::Value::as_i64);
    let event = || {
        let kind = u16::try_from(field("type")?).ok()?;
        let code = u16::try_from(field("code")?).ok()?;
        Some(Event::new(kind, code, i32::try_from(field("value")?).ok()?))
    };
    let event = event().ok_or(r#"an event is {"type":T,"code":C,"value":V}"#)?;
    if event.is_report() {
        return Ok(vec![std::mem::take(pending)]);
    }
    if pending.len() >= MAX_FRAME {
        return Err(format!("a frame has at most {MAX_FRAME} events"));
    }
    pending.push(event);
    Ok(Vec::new())
}

/// Whether the device can do that.
fn check(device: &Description, event: Event) -> Result<(), String> {
    let Event { kind, code, value } = event;
    if kind == EV_SYN {
        return Err("the end of a frame comes by itself".into());
    }
    if !device.has(kind, code) {
        return Err(format!("this device has no code {code} of type {kind}"));
    }
    match device.axes.get(&code) {
        Some(axis) if kind == EV_ABS && !(axis.min..=axis.max).contains(&value) => {
            let lifted = code == ABS_MT_TRACKING_ID && value == -1;
            let range = || format!("axis {code} goes from {} to {}", axis.min, axis.max);
            if lifted { Ok(()) } else { Err(range()) }
        }
        _ => Ok(()),
    }
}

fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number = number.parse().ok()?;
    let time = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return None,
    };
    Some(time).filter(|time| *time <= MAX_SLEEP)
}

#[cfg(test)]
mod tests;
