package lab

import (
	"math/rand/v2"
	"time"
)

// Impairment is what a line does to frames. The zero value is a perfect line.
// Shares are between 0 and 1.
type Impairment struct {
	// Loss, Duplicate and Corrupt are the shares of frames that vanish, come
	// twice, and arrive with one bit flipped after the Ethernet addresses. ARP
	// stays whole: it has no checksum of its own, and real Ethernet has one.
	Loss, Duplicate, Corrupt float64
	// Reorder is the share of frames held back so that later ones overtake
	// them: by half of Delay, at least 2 ms.
	Reorder float64
	// Delay is the time on the line, to about a millisecond. Jitter varies it
	// both ways; it alone never changes the order.
	Delay, Jitter time.Duration
	// Rate is in bits per second, 0 is without limit.
	Rate int64
	// QueueBytes bounds what waits for the line when Rate is set; more is
	// dropped. 0 means 50 ms at that rate, at least 32 KiB.
	QueueBytes int
	// Seed makes the decisions: the same seed and the same frames give the
	// same fate to each.
	Seed int64
}

// queueBytes returns the bound of the queue.
func (im *Impairment) queueBytes() int64 {
	if im.QueueBytes != 0 {
		return int64(im.QueueBytes)
	}
	return max(im.Rate/8/20, 32<<10)
}

// fate is what happens to one frame.
type fate struct {
	lost, duplicated, reordered bool
	corrupt                     int // the bit to flip, -1 for none
	delay                       time.Duration
}

// dice decide fates from a seed.
type dice struct{ r *rand.Rand }

func newDice(seed int64, d Direction) dice {
	return dice{rand.New(rand.NewPCG(uint64(seed), uint64(d)))}
}

// roll decides the fate of a frame. It draws the same number of values for
// each frame, so that a change of one share leaves the other decisions.
func (d dice) roll(im *Impairment, frameLen int) fate {
	loss, dup, corrupt, reorder := d.r.Float64(), d.r.Float64(), d.r.Float64(), d.r.Float64()
	where, jitter := d.r.Float64(), d.r.Float64()
	f := fate{
		lost:       loss < im.Loss,
		duplicated: dup < im.Duplicate,
		reordered:  reorder < im.Reorder,
		corrupt:    -1,
		delay:      im.Delay + time.Duration((2*jitter-1)*float64(im.Jitter)),
	}
	const addresses = 12
	if corrupt < im.Corrupt && frameLen >= addresses+2 {
		f.corrupt = addresses*8 + int(where*float64((frameLen-addresses)*8))
	}
	if f.reordered {
		f.delay += max(im.Delay/2, 2*time.Millisecond)
	}
	f.delay = max(f.delay, 0)
	return f
}
