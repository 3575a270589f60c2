package handover_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/handover"
)

func pair(t *testing.T) (a, b *handover.Line) {
	t.Helper()
	a, theirs, err := handover.Pair()
	if err != nil {
		t.Fatal(err)
	}
	if b, err = handover.Join(theirs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	for _, l := range []*handover.Line{a, b} {
		if err := l.Within(10 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	return a, b
}

// Messages arrive whole and in order, of any size, each with its own files.
func TestMessagesAndFiles(t *testing.T) {
	a, b := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	big := bytes.Repeat([]byte("lastack"), 1<<20)
	sent := make(chan error, 1)
	go func() {
		sent <- errors.Join(a.Send("small", []byte("x"), w), a.Send("big", big), a.SendJSON("json", map[string]int{"n": 7}, r, r), a.Refuse(errors.New("no more")))
	}()
	body, files, err := b.Receive("small")
	if err != nil || string(body) != "x" || len(files) != 1 {
		t.Fatalf("%q, %d files, %v", body, len(files), err)
	}
	w.Close()
	if _, err := io.WriteString(files[0], "through"); err != nil {
		t.Fatal(err)
	}
	files[0].Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != "through" {
		t.Errorf("%q came through the file: %v", got, err)
	}
	if body, files, err = b.Receive("big"); err != nil || !bytes.Equal(body, big) || len(files) != 0 {
		t.Fatalf("%d bytes, %d files, %v", len(body), len(files), err)
	}
	var v map[string]int
	if err := b.ReceiveJSON("json", &v); err != nil || v["n"] != 7 {
		t.Fatalf("%v, %v", v, err)
	}
	var refused *handover.RefusedError
	if _, _, err := b.Receive("more"); !errors.As(err, &refused) || refused.Why != "no more" {
		t.Errorf("a refusal came as %v", err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// What comes instead of a message is told in a sentence.
func TestNoMessage(t *testing.T) {
	a, b := pair(t)
	if err := a.Send("other", nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Receive("this"); err == nil || err.Error() != `waiting for this: "other" came in its place` {
		t.Errorf("another kind: %v", err)
	}
	a.Close()
	if _, _, err := b.Receive("this"); err == nil || err.Error() != "waiting for this: the other process has ended" {
		t.Errorf("an end: %v", err)
	}
}
