//! Samples as they are shown on a page.

use std::thread;

use datasets::Modality;
use features::ShardSpec;
use features::shards::Fetched;
use page::{Input, Markup, Sample, data_url, html};

use crate::filters::bits;
use crate::rows::Row;
use crate::sounds::Sound;

/// What a card shows.
pub struct Card<'a> {
    /// The row.
    pub row: &'a Row,
    /// Its media.
    pub fetched: &'a Fetched,
    /// Its sound, or why there is none; `None` where sounds are not wanted.
    pub sound: Option<&'a Result<Sound, String>>,
}

/// Returns the markup of cards, in their order. Pictures are made smaller on all cores.
pub fn markup(spec: &ShardSpec, cards: &[Card]) -> Vec<String> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let part = cards.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let started: Vec<_> = cards
            .chunks(part)
            .map(|cards| {
                let make = move || cards.iter().map(|card| one(spec, card).into_string());
                scope.spawn(move || make().collect::<Vec<String>>())
            })
            .collect();
        let done = started.into_iter().map(|thread| thread.join());
        // A thread that panicked has reported it; its panic goes on here.
        done.flat_map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn one(spec: &ShardSpec, card: &Card) -> Markup {
    let row = card.row;
    let input = |which: usize| {
        let content = card.fetched.contents[which].as_ref();
        let input = content.map_or(Input::Missing(None), Input::Present);
        (spec.modalities[which], input)
    };
    let labels: Vec<String> = row.labels.iter().map(u32::to_string).collect();
    let sample = Sample {
        id: &row.id,
        inputs: [input(0), input(1)],
        frame_times: &row.frame_times,
        seconds: row.seconds,
        error: row.error.as_deref(),
    };
    let mut modalities = spec.modalities.iter().zip(row.present);
    let has_audio = modalities.any(|(modality, has)| *modality == Modality::Audio && has);
    html! {
        article.sample id=(row.anchor()) data-split=(row.at.0) data-labels=(labels.join(" "))
            data-bits=(bits(row)) data-id=(row.id) {
            h3 { a href={ "#" (row.anchor()) } { (row.id) } }
            p.labels {
                @for label in &row.labels { span.label { (spec.classes[*label as usize]) } " " }
                span.note { (row.at.0) }
            }
            (sample.markup())
            // Where there is no audio, its reason stands above.
            @if let Some(sound) = card.sound && (sound.is_ok() || has_audio) {
                (player(row, sound))
            }
            p.note.source {
                (row.source)
                @if let Some((start, end)) = row.segment {
                    " · event from " (format!("{start:.1}")) " to " (format!("{end:.1} s"))
                }
            }
        }
    }
}

fn player(row: &Row, sound: &Result<Sound, String>) -> Markup {
    html! {
        div.input data-modality=(Modality::Audio) {
            @match sound {
                Ok(sound) => audio controls preload="none" aria-label={ "Sound of sample " (row.id) }
                    src=(data_url(sound.media_type, &sound.bytes)) {},
                Err(reason) => p.reason { "no sound: " (reason) },
            }
        }
    }
}
