-- What whoever asked for a task should know of, although it was done: an array of texts.
ALTER TABLE task ADD COLUMN warnings TEXT NOT NULL DEFAULT '[]';
