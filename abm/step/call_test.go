package step

import (
	"strings"
	"testing"
)

func TestAllowedURL(t *testing.T) {
	hosts := []string{"api.example.com", "*.console.example.com:8443", "192.0.2.1:9"}
	for text, says := range map[string]string{
		"https://api.example.com/x":                 "",
		"https://API.example.com:443/x?y=z":         "",
		"https://a.console.example.com:8443/":       "",
		"https://192.0.2.1:9":                       "",
		"https://a.console.example.com/":            "not among",
		"https://a.b.console.example.com:8443/":     "not among",
		"https://console.example.com:8443/":         "not among",
		"https://.console.example.com:8443/":        "not among",
		"https://api.example.com:8443/":             "not among",
		"https://api.example.com.evil.org/":         "not among",
		"https://evil.org/?https://api.example.com": "not among",
		"https://api.example.com@evil.org/":         "without a user",
		"https://user@api.example.com/":             "without a user",
		"https://evil.org#@api.example.com/":        "not among",
		"https://evil.org\\@api.example.com/":       "is no URL",
		"http://api.example.com/":                   "must be https://",
		"https:api.example.com":                     "must be https://",
		"//api.example.com":                         "must be https://",
		"file:///etc/passwd":                        "must be https://",
		"https://api.example.com\n/":                "is no URL",
		"https://[::1]/":                            "not among",
	} {
		_, err := allowedURL(text, hosts)
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
}

func TestOutwardAddress(t *testing.T) {
	for address, allowed := range map[string]bool{
		"192.0.2.1:443": true, "10.1.2.3:443": true, "[2001:db8::1]:443": true,
		"127.0.0.1:443": false, "[::1]:443": false, "169.254.169.254:80": false, "[fe80::1]:80": false,
		"[::ffff:127.0.0.1]:443": false, "0.0.0.0:1": false, "224.0.0.1:1": false, "nonsense": false,
	} {
		if err := OutwardAddress(address); (err == nil) != allowed {
			t.Errorf("%s: %v, want allowed %v", address, err, allowed)
		}
	}
}

// No text is taken for a URL of another host than one that is opened.
func FuzzAllowedURL(f *testing.F) {
	f.Add("https://api.example.com/")
	f.Add("https://api.example.com@evil/")
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := allowedURL(text, []string{"api.example.com", "*.x.example.com:8443"})
		if err != nil {
			return
		}
		host := strings.ToLower(parsed.Hostname())
		if parsed.Scheme != "https" || parsed.User != nil || host != "api.example.com" && !strings.HasSuffix(host, ".x.example.com") {
			t.Errorf("%q is allowed as %q", text, parsed.Host)
		}
	})
}
