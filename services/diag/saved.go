package diag

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/lastack/lastack/services"
)

// savedTalk is what a talk adds to its session.
type savedTalk struct {
	In       services.SavedPipe `json:"in"`
	Out      services.SavedPipe `json:"out"`
	Begun    bool               `json:"begun"`
	Text     []byte             `json:"text,omitempty"`
	Said     int                `json:"said"`
	Finished time.Duration      `json:"finished"`
	FinishBy time.Duration      `json:"finish_by"`
}

// Keep implements services.Keeper.
func (t *talk) Keep() any {
	return savedTalk{t.in.Keep(), t.out.Keep(), t.begun, t.text, t.said, t.finished, t.finishBy}
}

// Recall implements services.Keeper.
func (t *talk) Recall(private json.RawMessage) error {
	var v savedTalk
	if err := json.Unmarshal(private, &v); err != nil {
		return fmt.Errorf("read what is known of it: %w", err)
	}
	t.in.Recall(t.Loop(), v.In)
	t.out.Recall(t.Loop(), v.Out)
	t.begun, t.text, t.said, t.finished, t.finishBy = v.Begun, v.Text, max(v.Said, 0), v.Finished, v.FinishBy
	if t.text != nil {
		t.said = min(t.said, len(t.text))
	}
	return nil
}
