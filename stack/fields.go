package stack

import (
	"fmt"
	"reflect"
	"time"
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/internal/tcpinfo"
)

// fields are where gVisor keeps of a connection what its interface does not
// show: the bounds of retransmission, which it copies from the stack's options
// into each connection when the handshake completes, and the timers. They are
// found by name when the stack is made, once for its version of gVisor, and
// read and written only with the endpoint's own lock held (LockUser). A
// version that names or types them otherwise is refused by New, and before
// that by a test. docs/adr/0001 has the reasons.
type fields struct {
	snd, rcv    uintptr // pointers in tcp.Endpoint
	recovery    uintptr
	probesOut   uintptr // keepalive.unacked
	probeTimer  timerAt // keepalive.timer
	minRTO      uintptr // in the sender, as the rest
	maxRTO      uintptr
	maxRetries  uintptr
	rto         uintptr
	srtt        uintptr
	sndUna      uintptr
	sndNxt      uintptr
	sndWnd      uintptr
	payload     uintptr // MaxPayloadSize
	state       uintptr
	zeroProbing uintptr
	resend      timerAt
	tailProbe   timerAt
	rcvWnd      uintptr // in the receiver
}

// timerAt is a timer of gVisor's.
type timerAt struct{ state, target, clockTarget, timer, callback uintptr }

// runs reports whether a timer of an endpoint is to fire.
func (at timerAt) runs(base unsafe.Pointer) bool { return get[int](base, at.state) == timerEnabled }

// arm makes a timer that does not run fire after d. It is what gVisor's own method
// does, which nobody else can call.
func (at timerAt) arm(base unsafe.Pointer, clock tcpip.Clock, d time.Duration) {
	target := clock.NowMonotonic().Add(d)
	put(base, at.target, target)
	put(base, at.clockTarget, target)
	put(base, at.state, timerEnabled)
	if timer := get[tcpip.Timer](base, at.timer); timer != nil {
		timer.Reset(d)
		return
	}
	put(base, at.timer, clock.AfterFunc(d, get[func()](base, at.callback)))
}

// timerEnabled is gVisor's timerStateEnabled, after uninitialized and disabled.
const timerEnabled = 2

// finder looks fields up and keeps the first that is not as expected.
type finder struct{ err error }

// at is the offset of a field in a struct, which must be of the given kind.
func (f *finder) at(t reflect.Type, name string, kind reflect.Kind) uintptr {
	field, ok := t.FieldByName(name)
	if !ok || field.Type.Kind() != kind {
		if f.err == nil {
			f.err = fmt.Errorf("stack: internal error: gVisor's %s has no field %s of kind %s", t, name, kind)
		}
		return 0
	}
	return f.offset(t, field.Index)
}

// offset adds up the way to a field of an embedded struct.
func (f *finder) offset(t reflect.Type, index []int) uintptr {
	sum := uintptr(0)
	for _, i := range index {
		field := t.Field(i)
		sum, t = sum+field.Offset, field.Type
		if t.Kind() == reflect.Pointer && f.err == nil && i != index[len(index)-1] {
			f.err = fmt.Errorf("stack: internal error: gVisor's %s is behind a pointer", field.Name)
		}
	}
	return sum
}

// inner is a field's type, or what it points to.
func (f *finder) inner(t reflect.Type, name string) reflect.Type {
	field, ok := t.FieldByName(name)
	if !ok {
		f.at(t, name, reflect.Struct) // keeps the error
		return reflect.TypeFor[struct{}]()
	}
	if field.Type.Kind() == reflect.Pointer {
		return field.Type.Elem()
	}
	return field.Type
}

func (f *finder) timer(t reflect.Type, name string) timerAt {
	base, in := f.at(t, name, reflect.Struct), f.inner(t, name)
	target := f.at(in, "target", reflect.Struct)
	if f.err == nil && f.inner(in, "target") != reflect.TypeFor[tcpip.MonotonicTime]() {
		f.err = fmt.Errorf("stack: internal error: gVisor's timer %s has no MonotonicTime as its target", name)
	}
	for field, want := range map[string]reflect.Type{
		"clockTarget": reflect.TypeFor[tcpip.MonotonicTime](), "timer": reflect.TypeFor[tcpip.Timer](), "callback": reflect.TypeFor[func()](),
	} {
		if got, ok := in.FieldByName(field); f.err == nil && (!ok || got.Type != want) {
			f.err = fmt.Errorf("stack: internal error: gVisor's timer %s has no %s of type %s", name, field, want)
		}
	}
	return timerAt{
		base + f.at(in, "state", reflect.Int), base + target, base + f.at(in, "clockTarget", reflect.Struct),
		base + f.at(in, "timer", reflect.Interface), base + f.at(in, "callback", reflect.Func),
	}
}

// within is the timer of a struct that begins at base.
func (at timerAt) within(base uintptr) timerAt {
	return timerAt{base + at.state, base + at.target, base + at.clockTarget, base + at.timer, base + at.callback}
}

func findFields() (*fields, error) {
	var f finder
	ep := reflect.TypeFor[tcp.Endpoint]()
	snd, rcv, alive := f.inner(ep, "snd"), f.inner(ep, "rcv"), f.inner(ep, "keepalive")
	keepalive := f.at(ep, "keepalive", reflect.Struct)
	timer := f.timer(alive, "timer")
	found := &fields{
		snd: f.at(ep, "snd", reflect.Pointer), rcv: f.at(ep, "rcv", reflect.Pointer),
		recovery:    f.at(ep, "tcpRecovery", reflect.Int32),
		probesOut:   keepalive + f.at(alive, "unacked", reflect.Int),
		probeTimer:  timer.within(keepalive),
		minRTO:      f.at(snd, "minRTO", reflect.Int64),
		maxRTO:      f.at(snd, "maxRTO", reflect.Int64),
		maxRetries:  f.at(snd, "maxRetries", reflect.Uint32),
		rto:         f.at(snd, "RTO", reflect.Int64),
		srtt:        f.at(snd, "rtt", reflect.Struct) + f.at(f.inner(snd, "rtt"), "SRTT", reflect.Int64),
		sndUna:      f.at(snd, "SndUna", reflect.Uint32),
		sndNxt:      f.at(snd, "SndNxt", reflect.Uint32),
		sndWnd:      f.at(snd, "SndWnd", reflect.Uint32),
		payload:     f.at(snd, "MaxPayloadSize", reflect.Int),
		state:       f.at(snd, "state", reflect.Int),
		zeroProbing: f.at(snd, "zeroWindowProbing", reflect.Bool),
		resend:      f.timer(snd, "resendTimer"),
		tailProbe:   f.timer(snd, "probeTimer"),
		rcvWnd:      f.at(rcv, "rcvWnd", reflect.Uint32),
	}
	return found, f.err
}

func get[T any](base unsafe.Pointer, offset uintptr) T { return *(*T)(unsafe.Add(base, offset)) }

func put[T any](base unsafe.Pointer, offset uintptr, v T) { *(*T)(unsafe.Add(base, offset)) = v }

// bound puts the policy's bounds of retransmission into an established
// connection. It does nothing to one that has no sender yet or any more. lostSYN
// tells that our SYN was repeated and no timestamp measured the round trip.
func (f *fields) bound(ep tcpip.Endpoint, r config.Retransmit, lostSYN bool) {
	e, ok := ep.(*tcp.Endpoint)
	if !ok {
		return
	}
	e.LockUser()
	defer e.UnlockUser()
	base := unsafe.Pointer(e)
	snd := get[unsafe.Pointer](base, f.snd)
	if snd == nil {
		return
	}
	put(base, f.recovery, int32(lossDetection(r.LossDetection)))
	if get[time.Duration](snd, f.srtt) == 0 {
		// CUBIC divides by it: a loss before the first sample would give a
		// congestion window below nothing, and nothing would be sent ever after. The
		// first sample still replaces it (RFC 6298, 2.2).
		put(snd, f.srtt, unmeasuredRTT)
	}
	if r.MaxRetries > 0 {
		put(snd, f.maxRetries, uint32(r.MaxRetries))
	}
	if r.MinRTO > 0 && r.MaxRTO >= r.MinRTO {
		put(snd, f.minRTO, r.MinRTO)
		put(snd, f.maxRTO, r.MaxRTO)
		rto := get[time.Duration](snd, f.rto)
		if lostSYN {
			rto = max(rto, lostSYNRTO)
		}
		put(snd, f.rto, min(max(rto, r.MinRTO), r.MaxRTO))
	}
}

// unmeasuredRTT stands for a round trip that nothing has measured: where RFC
// 6298, 2.1, lets the RTO begin.
const unmeasuredRTT = time.Second

// lostSYNRTO is where the RTO begins if the SYN had to be repeated and nothing
// was measured (RFC 6298, 5.7).
const lostSYNRTO = 3 * time.Second

// fill adds to a snapshot what only the fields tell.
func (f *fields) fill(e *tcp.Endpoint, now tcpip.MonotonicTime, info *tcpinfo.Info) {
	e.LockUser()
	defer e.UnlockUser()
	base := unsafe.Pointer(e)
	snd, rcv := get[unsafe.Pointer](base, f.snd), get[unsafe.Pointer](base, f.rcv)
	if snd == nil || rcv == nil {
		return
	}
	info.SndMSS = uint32(get[int](snd, f.payload))
	info.Unacked = get[uint32](snd, f.sndNxt) - get[uint32](snd, f.sndUna)
	info.SndWnd, info.RcvWnd = get[uint32](snd, f.sndWnd), get[uint32](rcv, f.rcvWnd)
	switch tcpip.CongestionControlState(get[int](snd, f.state)) {
	case tcpip.Open:
		info.CaState = "open"
	case tcpip.RTORecovery:
		info.CaState = "loss"
	default:
		info.CaState = "recovery"
	}
	add := func(base unsafe.Pointer, at timerAt, name tcpinfo.Rule, try int) {
		if at.runs(base) {
			left := get[tcpip.MonotonicTime](base, at.target).Sub(now)
			info.Timers = append(info.Timers, tcpinfo.Timer{Name: name, Left: max(left, 0), Try: try})
		}
	}
	name := tcpinfo.Retransmit
	if get[bool](snd, f.zeroProbing) {
		name = tcpinfo.ZeroWindow
	}
	add(snd, f.resend, name, 0)
	add(snd, f.tailProbe, tcpinfo.Retransmit, 0)
	if e.SocketOptions().GetKeepAlive() && info.Unacked == 0 {
		add(base, f.probeTimer, tcpinfo.Keepalive, get[int](base, f.probesOut))
	}
}
