//! Samples as they are shown on a page.

use std::thread;

use datasets::{InputName, Modality};
use features::ShardSpec;
use features::shards::Fetched;
use page::{Input, Markup, Sample, SampleInput, data_url, html};

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
    let input = |(which, name): (usize, InputName)| {
        let content = card.fetched.contents[which].as_ref();
        SampleInput {
            name,
            content: content.map_or(Input::Missing(None), Input::Present),
            frame_times: &row.frame_times[which],
            seconds: row.seconds[which],
        }
    };
    let labels: Vec<String> = row.labels.iter().map(u32::to_string).collect();
    let sample = Sample {
        id: &row.id,
        inputs: spec.modalities.names().enumerate().map(input).collect(),
        error: row.error.as_deref(),
    };
    let audio = spec.modalities.position_of(Modality::Audio);
    let has_audio = audio.is_some_and(|which| row.present[which]);
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
                Ok(sound) => audio controls preload="metadata" aria-label={ "Sound of sample " (row.id) }
                    src=(data_url(sound.media_type, &sound.bytes)) {},
                Err(reason) => p.reason { "no sound: " (reason) },
            }
        }
    }
}
