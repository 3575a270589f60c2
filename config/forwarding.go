package config

// AutoMeans is what forwarding auto comes to where nothing forbids it: "relay",
// "splice" or "direct".
const AutoMeans = "direct"

var forwardings = []string{"auto", "relay", "splice", "direct"}

// Carrier is what carries the connections of a proxy: "relay", "splice" or
// "direct". why tells why it is nothing cheaper; direct is the cheapest.
func (s *Service) Carrier() (by, why string) {
	by, why = s.Forwarding, "forwarding: "+s.Forwarding
	if by == "auto" || by == "" {
		by, why = AutoMeans, "forwarding: auto means "+AutoMeans
	}
	switch {
	case by != "relay" && s.Heartbeat.Enabled():
		return "relay", "heartbeat"
	case by == "direct":
		return by, ""
	}
	return by, why
}

// checkForwarding refuses what no carrier of segments can do.
func (d *serviceDraft) checkForwarding() {
	by := d.Forwarding
	if at := d.found["forwarding"]; (by == "splice" || by == "direct") && d.Heartbeat.Enabled() {
		at.fail("forwarding "+by+" cannot go with a heartbeat: its question is put into the stream and its answer taken out, which needs relay", "auto, relay")
	}
}
