// Checks custom resources as the API server would: our CRDs themselves, samples of them that are right and wrong, and
// the objects of other projects that the chart and the examples contain. And alerts, as Prometheus would.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/json"
	strictyaml "sigs.k8s.io/yaml"
)

var (
	scheme    = runtime.NewScheme()
	resources = map[schema.GroupVersionKind]resource{}
	// Kinds without a CRD at hand, of which there is a Go type.
	typed = map[schema.GroupVersionKind]func() any{
		monitoring.SchemeGroupVersion.WithKind("ServiceMonitor"): func() any { return &monitoring.ServiceMonitor{} },
	}
	failed bool
)

func fail(format string, arguments ...any) {
	failed = true
	fmt.Fprintf(os.Stderr, "  "+format+"\n", arguments...)
}

func main() {
	own := flag.String("own", "", "folder of our CRDs: checked themselves")
	foreign := flag.String("foreign", "", "other CRDs: files and folders, comma separated")
	samples := flag.String("samples", "", "folder with good/ and bad/")
	whole := flag.Bool("whole", false, "the objects are all there is: what one names, another must be")
	configs := flag.String("configs", "", "folder for the EndpointPickerConfigs, and lists of pools, that ConfigMaps hold")
	probe := flag.String("probe", "", "file with the node agent's DaemonSet: the chart's must be given the same")
	alerts := flag.String("alerts", "", "file of Prometheus rules")
	flag.Parse()
	install.Install(scheme)

	for _, path := range yamlFiles(*own) {
		loadCRDs(path, true)
	}
	for _, name := range strings.Split(*foreign, ",") {
		for _, path := range yamlFiles(name) {
			loadCRDs(path, false)
		}
	}
	if *samples != "" {
		checkSamples(*samples)
	}
	unchecked := map[string]bool{}
	checked := 0
	var all []unstructured.Unstructured
	for _, argument := range flag.Args() {
		for _, path := range yamlFiles(argument) {
			var objects []unstructured.Unstructured
			for _, document := range documents(path) {
				objects = append(objects, document.object)
				kind := document.object.GroupVersionKind()
				if builtIn(kind.Group) {
					continue
				}
				problems, known := check(document)
				switch {
				case !known:
					unchecked[kind.GroupVersion().String()+" "+kind.Kind] = true
				case len(problems) > 0:
					fail("%s: %s %s: %s", path, kind.Kind, document.object.GetName(), strings.Join(problems, "; "))
				default:
					checked++
				}
			}
			checkLease(path, objects)
			all = append(all, objects...)
		}
	}
	if *alerts != "" {
		fmt.Printf("  %d alerts checked\n", checkAlerts(*alerts))
	}
	if *whole {
		checkReferences(all)
	}
	if *probe != "" {
		checkProbe(*probe, all)
	}
	if *configs != "" {
		writeConfigs(*configs, all)
	}
	fmt.Printf("  %d custom resources checked\n", checked)
	if len(unchecked) > 0 {
		kinds := make([]string, 0, len(unchecked))
		for kind := range unchecked {
			kinds = append(kinds, kind)
		}
		sort.Strings(kinds)
		fmt.Printf("  NOT CHECKED, no schema at hand: %s\n", strings.Join(kinds, ", "))
	}
	if failed {
		os.Exit(1)
	}
}

// Groups whose kinds kubeconform checks.
func builtIn(group string) bool {
	switch group {
	case "apiextensions.k8s.io", "rbac.authorization.k8s.io", "networking.k8s.io", "coordination.k8s.io":
		return true
	}
	return !strings.Contains(group, ".")
}

func yamlFiles(root string) []string {
	var found []string
	if root == "" {
		return found
	}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && filepath.Ext(path) == ".yaml" {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		fail("%v", err)
	}
	return found
}

// One document of a file: as it stands there, and parsed.
type document struct {
	text   []byte
	object unstructured.Unstructured
}

func documents(path string) []document {
	text, err := os.ReadFile(path)
	if err != nil {
		fail("%v", err)
		return nil
	}
	var found []document
	split := bytes.Split(append([]byte("\n"), text...), []byte("\n---"))
	for _, part := range split {
		var object map[string]any
		text, err := strictyaml.YAMLToJSONStrict(part)
		if err == nil {
			// Whole numbers become int64, as in the API server.
			err = json.Unmarshal(text, &object)
		}
		if err != nil {
			fail("%s: %v", path, err)
			continue
		}
		if object["kind"] == nil {
			continue
		}
		found = append(found, document{part, unstructured.Unstructured{Object: object}})
	}
	return found
}
