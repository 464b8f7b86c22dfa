# The cmdlet for pictures, on a tiny model of the golden cases.
BeforeAll {
    . "$PSScriptRoot/Support.ps1"
    tar -xzf "$root/tests/golden/diffusion.tar.gz" -C $TestDrive diffusion/models/sd1
    $painter = Import-PeftModel "$TestDrive/diffusion/models/sd1" -Name painter
    Push-Location $TestDrive
}

AfterAll {
    Pop-Location
    Get-PeftModel | Remove-PeftModel
}

Describe 'Invoke-ImageGeneration' {
    It 'draws each prompt and says where, from which seed and how large' {
        $made = 'a red bird', 'a blue fish' | Invoke-ImageGeneration -Model $painter -Seed 3 -Step 2 -Width 16 -Height 16 -OutputPath ./pictures
        $made.Count | Should -Be 2
        $made[0] | Should -BeOfType Peft.Diffusion.Pipelines.ImageResult
        $made[0].Size | Should -Be '16 x 16'
        $made.Path | Should -Exist
    }

    It 'repeats a picture by its seed' {
        $first, $second = 'one', 'two' | ForEach-Object { $painter | Invoke-ImageGeneration 'a bird' -Seed 5 -Step 2 -Width 16 -Height 16 -OutputPath "./$_.png" }
        [Convert]::ToHexString([IO.File]::ReadAllBytes("$TestDrive/one.png")) | Should -Be ([Convert]::ToHexString([IO.File]::ReadAllBytes("$TestDrive/two.png")))
    }

    It 'completes schedulers' {
        Get-Completion 'Invoke-ImageGeneration x -Scheduler D' | Should -Contain 'DDIMScheduler'
    }

    It 'refuses a language model' {
        $language = Import-PeftModel $base -StructureOnly -Name language
        $failure = Get-ErrorRecord { $language | Invoke-ImageGeneration 'a bird' -ErrorAction Stop }
        $failure.ErrorDetails.RecommendedAction | Should -Not -BeNullOrEmpty
    }
}
