package image_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lastack/lastack/image"
)

// The power is cut 20 times while a configuration is applied, at random moments (5 times on arm64, whose boots take longer): the box serves again, by the old
// configuration or the new one, whole, and by the new one if it has said so. Its history and its keys are what they were.
func TestConfigurationAndKeysOutliveThePower(t *testing.T) {
	long(t)
	cuts := map[image.Arch]int{image.AMD64: 20, image.ARM64: 5}
	eachArch(t, func(t *testing.T, arch image.Arch) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		outlivePower(t, boot(t, arch, nil), cuts[arch], rand.New(rand.NewPCG(seed, 20)))
	})
}

func outlivePower(t *testing.T, r *rig, cuts int, random *rand.Rand) {
	t.Helper()
	r.serves(t)
	first := r.run(t, "config show")
	applied := []string{string(image.DefaultConfig()), first}
	old := numbered(first, 0)
	took := r.apply(t, old)
	applied = append(applied, old)

	results := map[string]int{}
	for n := 1; n <= cuts; n++ {
		next := numbered(first, n)
		applied = append(applied, next)
		moment, past := time.Duration(random.Int64N(int64(3*took))), time.Duration(random.Int64N(int64(took)))
		answered := r.cutWhileApplying(t, next, moment, past)
		r.powerOn(t)
		r.serves(t)
		got := r.run(t, "config show")
		result := "old, cut before the answer"
		switch {
		case got == next && answered:
			result = "new, cut after the answer"
		case got == next:
			result = "new, cut before the answer"
		case answered:
			t.Fatalf("cut %d, after %v: the box had said that the new configuration is in force, and has\n%s", n, moment, got)
		case got != old:
			t.Fatalf("cut %d, after %v: the configuration is neither the old one nor the new one:\n%s", n, moment, got)
		}
		results[result]++
		t.Logf("cut %d, after %v or %v past the answer: %s", n, moment.Round(time.Millisecond), past.Round(time.Millisecond), result)
		old = got
		r.wantWell(t, got)
	}
	t.Logf("of %d cuts: %v", cuts, results)
	for _, number := range r.history(t) {
		if text := r.run(t, fmt.Sprint("config show ", number)); !slices.Contains(applied, text) {
			t.Errorf("number %d of the history never was a configuration:\n%s", number, text)
		}
	}
}

// serves waits until the box does.
func (r *rig) serves(t *testing.T) {
	t.Helper()
	r.expect(t, `the appliance is ready`)
	if got, _ := r.get(t, "/power"); got != "backend: /power" {
		t.Fatalf("got %q through the box", got)
	}
}

// numbered is a configuration that no part of another can be taken for, on several blocks of the disk.
func numbered(base string, n int) string {
	head, tail, _ := strings.Cut(base, "admin:\n")
	var b strings.Builder
	fmt.Fprintf(&b, "%s  mark%d: {type: discard, listen: \"eth0:%d\"}\nadmin:\n%s", head, n, 1000+n, tail)
	for line := range 500 {
		fmt.Fprintf(&b, "# line %d of number %d\n", line, n)
	}
	return b.String()
}

// apply is config apply to its end, and how long that takes.
func (r *rig) apply(t *testing.T, text string) time.Duration {
	t.Helper()
	c := r.login(t)
	defer c.Close()
	s := session(t, c)
	s.Stdin = strings.NewReader(text)
	began := time.Now()
	if err := s.Run("config apply -"); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

// cutWhileApplying cuts the power so long after the order to apply, or so long past the answer if that is earlier. It
// reports whether the box had answered that all is well.
func (r *rig) cutWhileApplying(t *testing.T, text string, after, past time.Duration) bool {
	t.Helper()
	c := r.login(t)
	defer c.Close()
	s := session(t, c)
	s.Stdin = strings.NewReader(text)
	ended := make(chan error, 1)
	moment := time.NewTimer(after)
	go func() { ended <- s.Run("config apply -") }() // the cut ends it
	select {
	case <-moment.C:
		r.powerCut(t)
		return <-ended == nil
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(past)
		r.powerCut(t)
		return true
	}
}

// wantWell wants the configuration in force, the newest of a history without gaps, and a box that knows no problem.
func (r *rig) wantWell(t *testing.T, text string) {
	t.Helper()
	numbers := r.history(t)
	if newest := r.run(t, fmt.Sprint("config show ", numbers[0])); newest != text {
		t.Errorf("the newest of the history is not in force:\n%s", newest)
	}
	_, mark, _ := strings.Cut(text, "  mark")
	mark, _, _ = strings.Cut("mark"+mark, ":")
	if status := r.run(t, "status"); !strings.Contains(status, mark+" ") {
		t.Errorf("%s does not serve:\n%s", mark, status)
	}
	var box struct {
		Data     bool
		Problems map[string]string
	}
	if err := json.Unmarshal([]byte(r.run(t, "update status --json")), &box); err != nil {
		t.Fatal(err)
	}
	if !box.Data || len(box.Problems) > 0 {
		t.Errorf("data is there: %v, problems: %v", box.Data, box.Problems)
	}
}

// history is the numbers of the configurations that are kept, newest first, down to 1.
func (r *rig) history(t *testing.T) (numbers []int) {
	t.Helper()
	var all []struct{ Number int }
	if err := json.Unmarshal([]byte(r.run(t, "config history --json")), &all); err != nil {
		t.Fatal(err)
	}
	for i, e := range all {
		if want := len(all) - i; e.Number != want {
			t.Fatalf("the history has number %d in place of %d: %+v", e.Number, want, all)
		}
		numbers = append(numbers, e.Number)
	}
	if len(numbers) == 0 {
		t.Fatal("the history is empty")
	}
	return numbers
}

// Who was told that the password is set finds it set, also if the power went at that moment.
func TestAPasswordOutlivesThePower(t *testing.T) {
	long(t)
	r := boot(t, image.AMD64, nil)
	r.expect(t, `no password is set`)
	r.expect(t, `the appliance is ready`)
	for _, line := range []struct{ text, answer string }{
		{"passwd\r", `new password: `}, {"correct horse\r", `once more: `}, {"correct horse\r", `the password is set`},
	} {
		if err := r.Type(line.text); err != nil {
			t.Fatal(err)
		}
		r.expect(t, line.answer)
	}
	r.powerCut(t)
	r.powerOn(t)
	if got := r.expect(t, `no password is set|password: `)[0]; got != "password: " {
		t.Errorf("the console says: %s", got)
	}
}
