// Command crdcheck judges documents as the Kubernetes API server would: with its own libraries.
//
// It reads {"crd": <CustomResourceDefinition v1>, "documents": [<object>...], "yaml": [<text>...]} from stdin and
// writes {"crd": [<error>...], "documents": [[<error>...]...], "yaml": [<object>...]}. An empty list of errors is
// a valid document. "yaml" answers what kubectl's YAML reader makes of a text.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

type question struct {
	CRD       json.RawMessage   `json:"crd"`
	Documents []json.RawMessage `json:"documents"`
	YAML      []string          `json:"yaml"`
}

type answer struct {
	CRD       []string          `json:"crd"`
	Documents [][]string        `json:"documents"`
	YAML      []json.RawMessage `json:"yaml"`
}

func main() {
	var asked question
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		log.Fatalf("stdin: %v", err)
	}
	crd, err := internal(asked.CRD)
	if err != nil {
		log.Fatalf("crd: %v", err)
	}
	said := answer{CRD: []string{}, Documents: [][]string{}, YAML: []json.RawMessage{}}
	for _, problem := range crdvalidation.ValidateCustomResourceDefinition(context.Background(), crd) {
		said.CRD = append(said.CRD, problem.Error())
	}
	if len(said.CRD) == 0 {
		judge, err := newJudge(crd)
		if err != nil {
			log.Fatalf("schema: %v", err)
		}
		for _, document := range asked.Documents {
			said.Documents = append(said.Documents, judge.problems(document))
		}
	}
	for _, text := range asked.YAML {
		read, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			log.Fatalf("yaml: %v", err)
		}
		said.YAML = append(said.YAML, read)
	}
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		log.Fatal(err)
	}
}

// internal decodes a v1 definition, with its defaults, as the API server stores it.
func internal(text []byte) (*apiextensions.CustomResourceDefinition, error) {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	var versioned apiextensionsv1.CustomResourceDefinition
	if err := json.Unmarshal(text, &versioned); err != nil {
		return nil, err
	}
	scheme.Default(&versioned)
	var crd apiextensions.CustomResourceDefinition
	if err := scheme.Convert(&versioned, &crd, nil); err != nil {
		return nil, err
	}
	for _, version := range crd.Spec.Versions { // as the storage strategy does on create
		if version.Storage {
			crd.Status.StoredVersions = append(crd.Status.StoredVersions, version.Name)
		}
	}
	return &crd, nil
}

type judge struct {
	structural *schema.Structural
	schema     validation.SchemaValidator
	cel        *cel.Validator
}

func newJudge(crd *apiextensions.CustomResourceDefinition) (*judge, error) {
	props := crd.Spec.Validation // a single version's schema is moved here by the conversion
	if props == nil {
		props = crd.Spec.Versions[0].Schema
	}
	structural, err := schema.NewStructural(props.OpenAPIV3Schema)
	if err != nil {
		return nil, err
	}
	validator, _, err := validation.NewSchemaValidator(props.OpenAPIV3Schema)
	if err != nil {
		return nil, err
	}
	return &judge{structural, validator, cel.NewValidator(structural, true, celconfig.PerCallLimit)}, nil
}

// problems follows the order of a create with fieldValidation=Strict, which is kubectl's default.
func (j *judge) problems(text []byte) []string {
	problems := []string{}
	object := map[string]interface{}{}
	if err := utiljson.Unmarshal(text, &object); err != nil { // whole numbers become int64, as there
		return []string{err.Error()}
	}
	options := schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
	for _, unknown := range pruning.PruneWithOptions(object, j.structural, true, options) {
		problems = append(problems, fmt.Sprintf("%s: unknown field", unknown))
	}
	errs := validation.ValidateCustomResource(nil, object, j.schema)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, j.structural, object)...)
	if len(errs) == 0 { // rules are not run on what has another shape
		found, _ := j.cel.Validate(context.Background(), nil, j.structural, object, nil, celconfig.RuntimeCELCostBudget)
		errs = append(errs, found...)
	}
	for _, err := range errs {
		problems = append(problems, err.Error())
	}
	return problems
}
