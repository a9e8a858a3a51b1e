use super::format::{ArrivalLine, Line};
use super::numbers::Numbers;
use super::*;

fn asked(chain: Vec<u64>) -> Asked<'static> {
    Asked {
        at: Instant::now(),
        tokens: 100,
        chain,
        max_tokens: Some(9),
        model: "a-model",
        adapter: "",
        session: "",
        tenant: "",
        refused: false,
    }
}

fn lines(path: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(!text.contains("a-model"), "{text}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn arrivals(lines: &[Line]) -> Vec<ArrivalLine> {
    let arrivals = lines.iter().filter_map(|line| match line {
        Line::Arrival(arrival) => Some(arrival.clone()),
        _ => None,
    });
    arrivals.collect()
}

#[test]
fn equal_beginnings_have_equal_numbers_and_what_is_new_is_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let recorder = Recorder::create(&path, 1 << 20).unwrap();
    let first = recorder.asked(asked(vec![11, 12, 13])).unwrap();
    let second = recorder.asked(asked(vec![11, 12, 21, 22]));
    recorder.asked(asked(Vec::new())).unwrap();
    first.answered(AnswerLine {
        out: Some(7),
        e2e: 1.234_567_89,
        ..AnswerLine::default()
    });
    drop(second);
    recorder.close();
    assert!(recorder.asked(asked(Vec::new())).is_none());
    let lines = lines(&path);
    assert!(matches!(lines[0], Line::Header(header) if header.block_tokens == 64));
    let got = arrivals(&lines);
    let blocks: Vec<_> = got.iter().map(|arrival| arrival.blocks.clone()).collect();
    assert_eq!(blocks, [vec![(0, 3)], vec![(0, 2), (3, 2)], vec![]]);
    assert_eq!(
        (got[0].n, got[1].n, got[0].model, got[0].max),
        (0, 1, 1, Some(9))
    );
    let answer = AnswerLine {
        of: 0,
        out: Some(7),
        e2e: 1.234_568,
        ..AnswerLine::default()
    };
    assert!(lines.contains(&Line::Answer(answer)));
    let Some(Line::End(end)) = lines.last() else {
        panic!("{lines:?}");
    };
    assert_eq!((end.end.as_str(), end.dropped), ("closed", 0));
}

#[test]
fn sessions_are_numbers_and_those_of_tenants_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let recorder = Recorder::create(&path, 1 << 20).unwrap();
    for (session, tenant) in [
        ("s-1", ""),
        ("", "x"),
        ("s-1", "x"),
        ("s-2", ""),
        ("s-1", ""),
    ] {
        recorder.asked(Asked {
            session,
            tenant,
            ..asked(Vec::new())
        });
    }
    recorder.close();
    assert!(!std::fs::read_to_string(&path).unwrap().contains("s-"));
    let sessions: Vec<_> = arrivals(&lines(&path)).iter().map(|a| a.session).collect();
    assert_eq!(sessions, [1, 0, 2, 3, 1]);
}

#[test]
fn a_capture_ends_at_its_limit_and_never_overwrites_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    for name in ["a", "a.1", "a.2"] {
        let recorder = Recorder::create(&path, 2_000).unwrap();
        assert_eq!(recorder.file(), folder.path().join(name));
        for n in 0..100 {
            recorder.asked(asked(vec![n]));
        }
        recorder.close();
        assert!(recorder.is_over());
        let length = std::fs::metadata(recorder.file()).unwrap().len();
        assert!((1_700..=2_000).contains(&length), "{length}");
        let lines = lines(recorder.file());
        assert!(matches!(lines.last(), Some(Line::End(end)) if end.end == "full"));
        let mut registry = Registry::default();
        recorder.register(&mut registry);
        recorder.asked(asked(Vec::new()));
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        assert!(
            page.contains("record_dropped_total{reason=\"behind\"} 0\n"),
            "{page}"
        );
        assert!(
            !page.contains("record_dropped_total{reason=\"over\"} 0\n"),
            "{page}"
        );
    }
    let nowhere = folder.path().join("no/such/folder");
    let error = Recorder::create(&nowhere, 1).unwrap_err().to_string();
    assert!(
        error.contains("in a directory that this process may write to"),
        "{error}"
    );
}

#[test]
fn what_does_not_fit_into_the_queue_is_dropped_and_counted() {
    let (queue, entries) = sync_channel(2);
    let recorder = Arc::new(Recorder {
        queue,
        shared: Arc::default(),
        started: Instant::now(),
        next: AtomicU64::new(0),
        thread: Mutex::default(),
        file: PathBuf::new(),
    });
    let behind = || recorder.shared.dropped(BEHIND).get();
    let large = vec![0; MOST_QUEUED_BYTES / 8 + 1];
    assert!(recorder.asked(asked(large)).is_none());
    assert_eq!(
        (behind(), recorder.shared.bytes.load(Ordering::Relaxed)),
        (1, 0)
    );
    assert!(recorder.asked(asked(vec![1])).is_some());
    assert!(recorder.asked(asked(vec![2])).is_some());
    assert!(recorder.asked(asked(vec![3])).is_none());
    assert_eq!(
        (behind(), recorder.shared.bytes.load(Ordering::Relaxed)),
        (2, 16)
    );
    drop(entries);
}

#[test]
fn numbers_are_remembered_within_bounds() {
    let mut numbers = Numbers::new(2);
    assert_eq!(
        [1, 2, 1].map(|key| numbers.of(key)),
        [Some(0), Some(1), Some(0)]
    );
    // 3 begins a generation; 1 is carried over when it is asked for, 2 is forgotten with the third.
    assert_eq!([3, 1].map(|key| numbers.of(key)), [Some(2), Some(0)]);
    assert_eq!(
        [4, 1, 2].map(|key| numbers.of(key)),
        [Some(3), Some(0), Some(4)]
    );
}
