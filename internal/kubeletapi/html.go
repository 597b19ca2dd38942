package kubeletapi

import (
	"io"
	"slices"

	"golang.org/x/net/html"
)

// linked are the attributes of HTML elements whose value is one URL (HTML 4.01,
// "Index of Attributes", and HTML 5).
var linked = map[string][]string{
	"a": {"href"}, "applet": {"codebase"}, "area": {"href"}, "audio": {"src"}, "base": {"href"}, "blockquote": {"cite"},
	"body": {"background"}, "button": {"formaction"}, "command": {"icon"}, "del": {"cite"}, "embed": {"src"}, "form": {"action"},
	"frame": {"longdesc", "src"}, "head": {"profile"}, "html": {"manifest"}, "iframe": {"longdesc", "src"},
	"img": {"longdesc", "src", "usemap"}, "input": {"src", "usemap", "formaction"}, "ins": {"cite"}, "link": {"href"},
	"object": {"classid", "codebase", "data", "usemap"}, "q": {"cite"}, "script": {"src"}, "source": {"src"}, "video": {"poster", "src"},
}

// rewriteHTML copies a page with its links changed. What is no link is copied as it is.
func rewriteHTML(in io.Reader, out io.Writer, change func(string) string) error {
	z := html.NewTokenizer(in)
	for {
		kind := z.Next()
		if kind == html.ErrorToken {
			if z.Err() == io.EOF {
				return nil
			}
			return z.Err()
		}
		raw := slices.Clone(z.Raw())
		if kind == html.StartTagToken || kind == html.SelfClosingTagToken {
			t := z.Token()
			changed := false
			for i, a := range t.Attr {
				if !slices.Contains(linked[t.Data], a.Key) {
					continue
				}
				if v := change(a.Val); v != a.Val {
					t.Attr[i].Val, changed = v, true
				}
			}
			if changed {
				raw = []byte(t.String())
			}
		}
		if _, err := out.Write(raw); err != nil {
			return err
		}
	}
}
