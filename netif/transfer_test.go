package netif

import "testing"

func TestBytesAreTheSameOverEveryKindOfCard(t *testing.T) {
	for _, c := range []struct {
		name    string
		connect cable
		// rxSuper and txSuper: whether super-frames are used, and so tested.
		rxSuper, txSuper bool
	}{
		{"veth with offloads", wire, true, true},
		{"veth, peer without offloads", plainWire, false, true},
		{"claimed veth, merged by GRO", claimedWire, true, true},
		{"wire without any offload", copperWire, false, true},
		{"tap", taps, false, true},
		{"tap with offloads", vnetTaps, true, true},
		{"VLAN 10, tagged by a switch", accessPort, false, true},
		{"VLAN 10, tagged by the kernel", vlanLink, true, true},
		{"link of VLAN 10, claimed", claimedVLANLink, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.connect, EndpointOptions{Queues: 1})
			for _, f := range families {
				r.exchange(f.ours)
			}
			n := r.e.Counters()
			t.Logf("%+v", n)
			if got := n.RxSuperFrames > 0; got != c.rxSuper {
				t.Errorf("received %d super-frames, want some: %v", n.RxSuperFrames, c.rxSuper)
			}
			if got := n.TxSuperFrames > 0; got != c.txSuper {
				t.Errorf("sent %d super-frames, want some: %v", n.TxSuperFrames, c.txSuper)
			}
			if n.RxBadChecksum+n.RxMalformed+n.RxTruncated+n.RxUnsupported+n.TxDropTooBig+n.TxDropError > 0 {
				t.Errorf("frames were dropped: %+v", n)
			}
		})
	}
}
