using System.Management.Automation;
using Peft.Adapters.Model;

namespace Peft.Tests.PowerShell;

/// <summary>Import-TrainingDataset and Show-TrainingExample.</summary>
public sealed class DatasetCmdletTests(ModuleHost host) : CmdletsInFolder(host, import: null)
{
    [Fact]
    public void An_object_in_a_row_becomes_its_text_and_its_own_properties_are_left_alone()
    {
        var values = host.Output("""
            $data = [pscustomobject]@{ text = [IO.DirectoryInfo] $args[0]; list = @{ file = [IO.FileInfo] 'a' }, 1 } | Import-TrainingDataset
            $data.Rows[0].Values['text']; $data.Rows[0].Values['list'][0]['file']
            """, folder.FullName);
        Assert.Equal([folder.FullName, "a"], values.Select(static value => value.BaseObject));
    }

    [Theory]
    [InlineData("[IO.DirectoryInfo] $args[0] | Import-TrainingDataset")]
    [InlineData("$table = @{ text = 'x' }; $table.again = $table; $table | Import-TrainingDataset")]
    [InlineData("$list = [Collections.ArrayList]::new(); $null = $list.Add($list); @{ text = 'x'; list = $list } | Import-TrainingDataset")]
    public void A_folder_and_what_holds_itself_are_no_rows(string script)
    {
        var error = host.Run(script, folder.FullName).Errors[0];
        Assert.Equal("DatasetRowInvalid,Peft.Cmdlets.Commands.Training.ImportTrainingDatasetCommand", error.FullyQualifiedErrorId);
        Assert.NotEmpty(error.ErrorDetails.RecommendedAction);
    }

    [Fact]
    public void Rows_are_objects_that_make_the_same_data_set_again()
    {
        var data = host.Output("""
            $data = @{ prompt = 'a'; completion = 'b'; more = @(1, @{ x = 'y' }) }, @{ prompt = 'c'; completion = 'd' } | Import-TrainingDataset -Template '{prompt}!'
            $again = $data.Rows | Import-TrainingDataset
            $again.Rows[0].Values['more'][1]['x']; $again.Count; $again.Columns.Kind.Name
            """);
        Assert.Equal(["y", 2, "PromptCompletion"], data.Select(static value => value.BaseObject));
    }

    [Fact]
    public void A_data_set_is_cut_sliced_shuffled_and_looked_at()
    {
        var values = host.Output("""
            $data = 1..20 | ForEach-Object { @{ prompt = "What is number $_ called?"; completion = "$_"; even = $_ % 2 -eq 0 } } | Import-TrainingDataset -Template '{prompt}!'
            $learnt, $held = $data | Split-TrainingDataset 0.75
            $learnt.Count; $held.Count; $held.Template.Text
            ($data | Split-TrainingDataset -Column even)[0].Count
            $odd = $data | Select-TrainingDataset { -not $_.even } -Skip 1 -First 3
            $odd.Rows.ForEach({ $_.Values['completion'] }) -join ' '
            ($data | Select-TrainingDataset -Last 1).Rows[0].Values['completion']
            ($data | Select-TrainingDataset -Shuffle).Rows[0].Values['completion'] -eq ($data | Select-TrainingDataset -Shuffle).Rows[0].Values['completion']
            $data.Preview.Where({ $_.Role -eq 'Prompt' }).Example
            """);
        Assert.Equal([15, 5, "{prompt}!", 10, "3 5 7", "20", true, "What is number 1 called?"], values.Select(static value => value.BaseObject));
    }

    [Fact]
    public void A_folder_is_one_data_set_whose_parts_have_names()
    {
        var values = host.Output("""
            $folder = [IO.Directory]::CreateDirectory("$($args[0])/parts").FullName
            [IO.File]::WriteAllText("$folder/train-1.jsonl", '{"text":"a"}'); [IO.File]::WriteAllText("$folder/train-2.jsonl", '{"text":"b"}'); [IO.File]::WriteAllText("$folder/test.jsonl", '{"text":"c"}')
            (Import-TrainingDataset $folder).Count
            (Import-TrainingDataset $folder -Split test).Rows[0].Values['text']
            (Import-TrainingDataset $folder -Streaming).IsStreamed
            (Import-TrainingDataset $folder -Verbose 4>&1)[0].Message -match 'layout Text'
            """, folder.FullName);
        Assert.Equal([2, "c", true, true], values.Select(static value => value.BaseObject));
    }

    [Fact]
    public void Data_sets_are_mixed()
    {
        var values = host.Output("""
            $many = 1..30 | ForEach-Object { @{ prompt = "$_"; completion = 'a' } } | Import-TrainingDataset
            $few = 1..5 | ForEach-Object { @{ text = "$_" } } | Import-TrainingDataset
            (Join-TrainingDataset $many, $few -Weight 3, 1).Count; ($many, $few | Join-TrainingDataset).Count; (Join-TrainingDataset $many, $few 3, 1 -Repeat).Layout
            """);
        Assert.Equal([20, 35, "PromptCompletion + Text"], values.Select(static value => value.BaseObject));
    }

    [Fact]
    public void A_pipeline_without_rows_is_an_empty_data_set()
    {
        Assert.StartsWith("DatasetEmpty,", Assert.Single(host.Run("@() | Import-TrainingDataset").Errors).FullyQualifiedErrorId, StringComparison.Ordinal);
        File.WriteAllText(Path.Combine(folder.FullName, "a.txt"), "a\n");
        Assert.Single(host.Output("[IO.FileInfo] $args[0] | Import-TrainingDataset", Path.Combine(folder.FullName, "a.txt")));
    }

    [Fact]
    public void A_bad_file_does_not_keep_the_others_from_being_read()
    {
        File.WriteAllText(Path.Combine(folder.FullName, "1.jsonl"), "{");
        File.WriteAllText(Path.Combine(folder.FullName, "2.jsonl"), "{\"text\":\"a\"}\n");
        var result = host.Run("Import-TrainingDataset ./*.jsonl, ./nothing.txt, ./2.jsonl");
        Assert.Equal(2, result.Output.Count);
        Assert.Equal(["DatasetRowInvalid", "PathNotFound"], result.Errors.Select(static error => error.FullyQualifiedErrorId.Split(',')[0]));
    }

    [Theory]
    [InlineData("Import-TrainingDataset ([IO.Directory]::CreateDirectory(\"$pwd/nothing\").FullName)", "DatasetFilesMissing", "holds no")]
    [InlineData("Import-TrainingDataset ./a.xlsx", "DatasetFormatNotSupported", "'.xlsx'")]
    [InlineData("Import-TrainingDataset ./a.parquet", "DatasetFileDamaged", "a.parquet")]
    [InlineData("Import-TrainingDataset ./noextension", "DatasetFormatNotSupported", "has no extension")]
    [InlineData("Import-TrainingDataset ./bad.jsonl", "DatasetRowInvalid", "Expected a '\"'.")]
    [InlineData("Import-TrainingDataset ./good.jsonl -Template 'Q: {question}'", "DatasetColumnMissing", "'question'")]
    [InlineData("Import-TrainingDataset ./text.txt -Template 'Q: {text}'", "PromptTemplateUnused", "whole texts")]
    public void What_is_wrong_with_a_file_is_said_in_words(string script, string errorId, string words)
    {
        foreach (var (name, text) in new[] { ("a.parquet", "PAR1"), ("a.xlsx", "PK"), ("noextension", "x"), ("bad.jsonl", "{oops\n"), ("good.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}\n"), ("text.txt", "a\n") })
        {
            File.WriteAllText(Path.Combine(folder.FullName, name), text);
        }

        var error = Assert.Single(host.Run(script).Errors);
        Assert.Equal(errorId + ",Peft.Cmdlets.Commands.Training.ImportTrainingDatasetCommand", error.FullyQualifiedErrorId);
        Assert.Contains(words, error.Exception.Message, StringComparison.Ordinal);

        // .NET counts lines from 0, which contradicts the line that stands in front.
        Assert.DoesNotContain("LineNumber", error.Exception.Message, StringComparison.Ordinal);
        Assert.NotEmpty(error.ErrorDetails.RecommendedAction);
    }

    [Fact]
    public void A_template_may_name_the_parts_of_a_row_and_its_other_columns()
    {
        File.WriteAllText(Path.Combine(folder.FullName, "a.csv"), "q,a,topic\nWho?,Me,people\n");
        Assert.Single(host.Output("Import-TrainingDataset ./a.csv -PromptColumn q -CompletionColumn a -Template '{topic}: {prompt} {q} {input}'"));
    }

    [Theory]
    [InlineData("a.jsonl", "{\"text\":\"a\"}\n")]
    [InlineData("a.csv", "text\n")]
    [InlineData("a.txt", "a\n")]
    public void A_long_reading_shows_progress(string name, string first)
    {
        var row = name.EndsWith("csv", StringComparison.Ordinal) ? "a\n" : first;
        File.WriteAllText(Path.Combine(folder.FullName, name), first + string.Concat(Enumerable.Repeat(row, 2500)));
        var progress = host.Run($"Import-TrainingDataset ./{name}").Progress;
        Assert.Contains(progress, record => record.Activity == $"Importing '{name}'");
        Assert.Equal(ProgressRecordType.Completed, progress[^1].RecordType);
        Assert.Empty(host.Run("'a', 'b' | Import-TrainingDataset").Progress);
    }

    [Fact]
    public void A_data_set_in_a_text_is_its_origin_and_size() =>
        Assert.Equal("the pipeline (2 examples)", host.Output("\"$('a', 'b' | Import-TrainingDataset)\"")[0].BaseObject);

    [Fact]
    public void An_example_is_shown_as_long_as_a_training_would_take_it()
    {
        var shown = host.Output("""
            $model = Import-PeftModel $args[0] -StructureOnly
            $data = 'word ' * 1500 | Import-TrainingDataset
            $data | Show-TrainingExample -Model $model
            $data | Show-TrainingExample -Model $model -MaxLength 2000
            $model | Remove-PeftModel
            """, Path.Combine(ModuleHost.Root, "assets", "pocket-llama"));
        Assert.Equal([1024, 1501], shown.Select(static view => Math.Min(1501, (int)view.Properties["TokenCount"].Value)));
        Assert.Equal([true, false], shown.Select(static view => view.Properties["IsCut"].Value));
    }
}
