//! What a worker does for a task: a script in the prompt's text. In: a text. Out: steps.
//!
//! The script stands on a line of its own: `script: work 500; ask bash; say 200; finish stop`. Words:
//! `work MS` a tool runs and has one effect · `say MS` the model talks · `ask NAME` a permission, waits for its answer ·
//! `question` a question, waits · `retry MS` the provider makes it wait · `hang` busy for ever ·
//! `loop` answers without a finish reason, for ever · `error NAME` the answer ends with this error ·
//! `reject` a rejected permission ends the run · `die` the worker process dies · `finish WORD` the last answer.
//! Without a `finish` the last answer ends with `stop`. `refuse` makes the engine refuse the prompt itself;
//! `lost` makes it accept the prompt and never store it; `cold MS` stores it only after this long.

/// One step of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptStep {
    /// A tool runs this long, then its effect has happened.
    Work(u64),
    /// The model talks this long.
    Say(u64),
    /// Asks for a permission.
    Ask(String),
    /// Asks a question.
    Question,
    /// The provider makes it wait this long.
    Retry(u64),
    /// Busy for ever.
    Hang,
    /// Answers without a finish reason, again and again.
    Loop,
    /// The answer ends with this error.
    Error(String),
    /// A rejected permission ends the run.
    Reject,
    /// The worker process dies.
    Die,
    /// The last answer, with this finish word.
    Finish(String),
}

/// A parsed script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// What the worker does, in order.
    pub steps: Vec<ScriptStep>,
    /// The engine refuses the prompt.
    pub refuse: bool,
    /// The engine accepts the prompt and loses it.
    pub lost: bool,
    /// The prompt is stored after this many milliseconds.
    pub cold_ms: Option<u64>,
}

impl Script {
    /// The script in a prompt's text; none when there is no such line.
    pub fn of(text: &str) -> Option<Self> {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("script:"))?;
        let mut script = Self::default();
        for words in line.split(';').map(str::trim).filter(|w| !w.is_empty()) {
            script.add(words);
        }
        Some(script)
    }

    fn add(&mut self, words: &str) {
        let (word, argument) = words.split_once(' ').unwrap_or((words, ""));
        let ms = argument.trim().parse().unwrap_or(100);
        let name = argument.trim().to_owned();
        let step = match word {
            "work" => ScriptStep::Work(ms),
            "say" => ScriptStep::Say(ms),
            "ask" => ScriptStep::Ask(name),
            "question" => ScriptStep::Question,
            "retry" => ScriptStep::Retry(ms),
            "hang" => ScriptStep::Hang,
            "loop" => ScriptStep::Loop,
            "error" => ScriptStep::Error(name),
            "reject" => ScriptStep::Reject,
            "die" => ScriptStep::Die,
            "finish" => ScriptStep::Finish(name),
            "refuse" => {
                self.refuse = true;
                return;
            }
            "lost" => {
                self.lost = true;
                return;
            }
            "cold" => {
                self.cold_ms = Some(ms);
                return;
            }
            // A typing error in a test must not pass as a worker that does nothing.
            other => ScriptStep::Error(format!("BadScript {other}")),
        };
        self.steps.push(step);
    }
}
